"""Whole set-ups, made of tests/parts, that the end-to-end tests and the demo share."""
