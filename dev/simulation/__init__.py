"""The app under virtual time: a year of its subscriptions, and what becomes of notifications if calls go wrong."""
