"""Decide which host names routes may have if podman copies the hosts file into containers."""

from collections.abc import Callable
from contextlib import suppress

from postfix_sync.containers.engine import copied_into_containers
from postfix_sync.errors import SyncError
from postfix_sync.hosts_file.files import HostsFiles


def routable_names(hosts: HostsFiles) -> Callable[[str], bool]:
    """Return a test of whether routes may have a host name; if not, they have its address.

    The test accepts any name, unless podman copies the hosts file into containers. In that case it
    accepts only the names in lines outside our block.
    """
    if not copied_into_containers(hosts.path):
        return lambda _: True
    foreign: frozenset[str] = frozenset()
    with suppress(SyncError):  # the sync reports an unreadable file when it writes the file
        foreign = frozenset(hosts.read().foreign())
    return foreign.__contains__
