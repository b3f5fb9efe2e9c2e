"""This host's commands, files, locks, TCP connections and threads."""
