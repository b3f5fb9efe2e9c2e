"""The block of postfix-sync in hosts(5), and the chroot's copy of that file."""
