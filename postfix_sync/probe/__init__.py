"""Probe LMTP servers, and have Postfix deliver deferred mail once a server is up again."""
