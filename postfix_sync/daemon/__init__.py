"""The daemon: one watcher for each source, the sync and probe loops, signals, sd_notify(3)."""
