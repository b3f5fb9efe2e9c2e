"""One Postfix instance: its parameters, tables, maps, queue and processes."""
