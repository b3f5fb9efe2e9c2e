"""Real parts for the tests: Postfix, Mailman, LMTP servers good and bad, and a source of mail.

Nothing here is a mock.  Each module runs one real program (or speaks one real protocol) in a
directory of its own, on loopback ports, so that a test can watch postfix-sync do its work on a
machine whose own mail system is left alone.
"""
