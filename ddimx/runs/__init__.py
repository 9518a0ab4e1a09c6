"""A run that can be interrupted: its folder, its lock, its record, and what is left to do."""
