"""Keeps a Postfix host in step with the transport maps that Mailman 3 writes."""

__version__ = "0.1.0"
