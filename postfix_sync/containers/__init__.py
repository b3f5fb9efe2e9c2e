"""Docker and podman: a container's addresses, and the hosts file that podman copies."""
