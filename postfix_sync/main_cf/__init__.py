"""What main.cf has to say for the maps to work: read, judged, and changed by setup."""
