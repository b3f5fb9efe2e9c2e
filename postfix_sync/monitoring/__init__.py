"""Metrics, health and pages for monitoring systems."""
