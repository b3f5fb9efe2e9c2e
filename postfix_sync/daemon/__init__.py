"""What runs when: one watcher a source, the probe loop, signals, and sd_notify(3)."""
