"""Probe LMTP servers, and have deferred mail delivered to one that is back."""
