"""The checks, one module a subject; each yields findings."""
