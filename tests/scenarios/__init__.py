"""Set-ups of several parts (tests/parts) that the end-to-end tests and the demo share."""
