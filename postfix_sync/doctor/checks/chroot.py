"""Check lmtp(8)'s chroot: whether its copies of the files in /etc are up to date."""

import shlex
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from postfix_sync.doctor.findings import ok, warning
from postfix_sync.doctor.host import Host
from postfix_sync.errors import why
from postfix_sync.model.finding import Finding
from postfix_sync.system.files import read_file

NSSWITCH, RESOLV = Path("/etc/nsswitch.conf"), Path("/etc/resolv.conf")


async def copies(host: Host) -> AsyncIterator[Finding]:
    """Check that the files that lmtp(8) reads in its chroot equal those outside."""
    root = host.postfix.lmtp.resolver.root
    if not root:
        yield ok("chroot", "lmtp(8) is not chrooted")
        return
    used = bool(host.host_names)
    stale = [finding for finding in _stale(host, root) if used]
    for finding in stale:
        yield finding
    if not stale:
        yield ok("chroot", f"what lmtp(8) reads in {root}/etc is no older than outside")


def _stale(host: Host, root: Path) -> Iterator[Finding]:
    """Yield a finding for each copy that is missing, unreadable, or different and older.

    A copy that is different and newer was changed on purpose.
    """
    for original in (host.config.hosts.file, NSSWITCH, RESOLV):
        name = "hosts" if original == host.config.hosts.file else original.name
        copy = root / "etc" / name
        try:
            outside, changed = read_file(original), original.stat()
        except OSError:
            continue  # without an original, no copy is needed
        fix = copying(original, copy)
        try:
            inside, made = read_file(copy), copy.stat().st_mtime
        except OSError as error:
            if host.postfix.processes.master:  # else the start of Postfix makes the copy
                yield warning(f"chroot:{name}", f"{copy}: {why(error)}", _USED[name], fix)
            continue
        if not copy.stat().st_mode & 0o004:
            seen = f"{copy}: lmtp(8)'s user may not read it"
            yield warning(f"chroot:{name}", seen, _USED[name], fix)
        elif inside != outside and made < max(changed.st_mtime, changed.st_ctime):
            ages = f"is of {_day(made)}, {original} of {_day(changed.st_mtime)}"
            seen = f"{copy} {ages}, and they differ"
            yield warning(f"chroot:{name}", seen, _USED[name], fix)


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


_USED = {
    "hosts": "lmtp(8) is chrooted and finds names of the hosts file only in this copy",
    "nsswitch.conf": "an lmtp(8) that reads this copy looks names up in another order than other"
    " programs here",
    "resolv.conf": "lmtp(8) is chrooted and queries the name servers that this copy names",
}


def copying(original: Path, copy: Path) -> str:
    """Return the command that replaces the copy of a file."""
    return shlex.join(["install", "-D", "-m", "644", str(original), str(copy)])
