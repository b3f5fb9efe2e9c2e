"""Metrics, health and HTTP pages for monitoring systems."""
