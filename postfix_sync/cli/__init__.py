"""The commands, from options to exit status, and their output for people and for Nagios."""
