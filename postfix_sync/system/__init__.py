"""Commands, files, locks, TCP and threads: what this host's kernel is asked for."""
