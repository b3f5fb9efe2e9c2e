"""The configuration file: its sections, their values, and its reader."""
