"""Measurements, each a ratio to something measured in the same run: the machines they run on are shared and noisy."""
