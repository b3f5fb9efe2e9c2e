"""Check this host, read-only."""
