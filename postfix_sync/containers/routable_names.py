"""Which host names routes may have where podman copies the hosts file into containers."""

from collections.abc import Callable
from contextlib import suppress

from postfix_sync.containers.engine import copied_into_containers
from postfix_sync.errors import SyncError
from postfix_sync.hosts_file.files import HostsFiles


def routable_names(hosts: HostsFiles) -> Callable[[str], bool]:
    """Decide which host names routes may lead to; the others are routed by their address.

    Any, unless the file is copied into containers: then only those that other lines have.
    """
    if not copied_into_containers(hosts.path):
        return lambda _: True
    foreign: frozenset[str] = frozenset()
    with suppress(SyncError):  # an unreadable file is reported where it is to be written
        foreign = frozenset(hosts.read().foreign())
    return foreign.__contains__
