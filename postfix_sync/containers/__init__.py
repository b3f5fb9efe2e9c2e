"""Mailman in a container of docker or podman: where it is reached, now."""
