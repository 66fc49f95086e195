"""Everything that only a developer's machine needs; nothing of it is deployed."""
