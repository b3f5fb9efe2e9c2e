"""Find out what this Postfix does with mail to an address, by asking it. Read-only."""
