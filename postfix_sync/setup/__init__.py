"""Edit main.cf so that Postfix uses the maps, and undo these edits."""
