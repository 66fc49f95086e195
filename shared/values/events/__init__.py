"""The part that consumers get too, in the wheel of `clients/python`: msgspec is all that its modules import."""
