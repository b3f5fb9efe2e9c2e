"""What main.cf says, what it lacks for the maps to work, and what fixes that."""
