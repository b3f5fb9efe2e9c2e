"""Real parts for the tests: Postfix, Mailman, correct and faulty LMTP servers, and load.

There are no mocks.  Each module runs one real program (or speaks one real protocol) in a directory
of its own, on loopback ports, and does not use the machine's own mail system.
"""
