"""Check whether the hosts file has the addresses that are configured for names of destinations."""

import re
import shlex
from collections.abc import AsyncIterator
from pathlib import Path

from postfix_sync.containers.engine import copied_into_containers
from postfix_sync.doctor.findings import failure, ok, warning
from postfix_sync.doctor.host import Host
from postfix_sync.errors import SyncError
from postfix_sync.hosts_file.block import BEGIN, END
from postfix_sync.hosts_file.files import HostsFiles
from postfix_sync.model.finding import Finding
from postfix_sync.system.mounts import mount_of, without_links


async def entries(host: Host) -> AsyncIterator[Finding]:
    """Check that the hosts file has the configured addresses for our names."""
    path, wanted = host.config.hosts.file, host.addresses
    configured = any(source.address for source in host.config.sources)
    once = host.command("--once")
    try:
        read = HostsFiles(path, None).read()
    except SyncError as error:
        finding = failure if configured else warning
        if not path.is_file():
            yield finding("hosts", error.message, "names of Mailman hosts can't be entered there")
            return
        entries = [rf"/^[0-9a-fA-F.:]*\t{re.escape(name)}$/d" for name in sorted(wanted)]
        marks = [f"/^{mark.decode()}$/d" for mark in (BEGIN, END)]
        edits = " ".join(f"-e {shlex.quote(script)}" for script in [*marks, *entries])
        yield finding(
            "hosts",
            error.message,
            "names of Mailman hosts can't be entered; without the two lines, and what postfix-sync"
            " wrote between them, it writes its block again",
            f"sed -i {edits} {shlex.quote(str(path))} && {once}",
        )
        return
    foreign = read.foreign()
    for name, address in sorted(wanted.items()):
        if (there := foreign.get(name, address)) != address:
            line = rf"/^[[:space:]]*{re.escape(there)}[[:space:]]/"
            edit = rf"{line}s/[[:space:]]{re.escape(name)}([[:space:]]|$)/\1/I"
            yield failure(
                "hosts",
                f"{path}: {name} is {there} on a line that is not postfix-sync's",
                f"sources.address is {address}; postfix-sync keeps lines that it has not written,"
                " so mail goes to the address in that line",
                f"sed -i -E {shlex.quote(edit)} {shlex.quote(str(path))} && {once}",
            )
            return
        if read.lookup().get(name) != address:
            yield failure(
                "hosts",
                f"{path}: {name} is not {address}, which sources.address says",
                "the next sync enters it; does postfix-sync run?",
                once,
            )
            return
    if wanted:
        entries_text = ", ".join(f"{name} is {address}" for name, address in sorted(wanted.items()))
        mount = ", a mount that is written in place" if _is_mount(path) else ""
        yield ok("hosts", f"{path}{mount}: {entries_text}")
    elif configured and copied_into_containers(path):
        yield ok("hosts", f"{path}: podman copies it into its containers, so no name is entered")
    else:
        yield ok("hosts", f"{path}: no address is configured that would have to be there")


def _is_mount(path: Path) -> bool:
    """Return whether a file itself is a mount; Path.is_mount() finds only other file systems."""
    mount = mount_of(path)
    return mount is not None and mount.point == without_links(path)
