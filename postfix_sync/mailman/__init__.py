"""Mailman's files, the addresses of a list, and the names that it writes. Pure."""
