"""status.json: its schema, how it changes, and the file."""
