"""The checks of doctor, one module for each subject; each check yields findings."""
