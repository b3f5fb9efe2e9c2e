"""Configurations of Postfix as people publish them, and what setup and doctor make of each."""
