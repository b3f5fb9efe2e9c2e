"""Docker and podman: where a container's files are, and where it is reached."""
