"""Measure how fast postfix-sync is, beside what people use instead: `make bench`.

Each subject has a module with a function `measure`, which returns its figures as rows. `__main__`
runs the subjects and keeps the rows as JSON; `document` makes the tables and plots of
docs/benchmarks.md from the JSON.
"""
