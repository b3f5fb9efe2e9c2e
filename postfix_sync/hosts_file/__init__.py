"""Our block in hosts(5), and the chroot's copy of the file."""
