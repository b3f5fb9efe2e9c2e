"""Read-only checks of this host."""
