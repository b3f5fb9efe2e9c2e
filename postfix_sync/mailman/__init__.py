"""Mailman's files, the addresses of a list, and the names that Mailman writes. Pure."""
