"""Where Mailman's files come from, one module a kind of source.

A source has `fetch`, which returns a whole Snapshot or raises, and `changes`, which tells when it
is worth looking again. It never writes to where Mailman's files are.
"""
