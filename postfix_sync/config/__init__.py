"""The configuration file: its sections, their values, and how it is read."""
