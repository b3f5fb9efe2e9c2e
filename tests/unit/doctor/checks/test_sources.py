"""The file system of a source, and the finding if it has no events of changes."""

from pathlib import Path

import pytest

from postfix_sync.config import sections
from postfix_sync.config.schema import SourceSection
from postfix_sync.doctor.checks.sources import without_events
from postfix_sync.model.finding import Verdict
from postfix_sync.system.mounts import Mount, mount_of


@pytest.mark.parametrize(
    ("kind", "interval", "verdict", "seen"),
    [
        ("ext4", "1h", Verdict.OK, "/data: ext4, with events"),
        ("fuseblk", "1h", Verdict.OK, "/data: fuseblk, with events"),
        ("nfs4", "60s", Verdict.OK, "/data: nfs4, without events: looked at every 60 s"),
        ("nfs4", "1h", Verdict.WARNING, "/data: nfs4, looked at every 3600 s"),
        ("fuse.sshfs", "5m", Verdict.WARNING, "/data: fuse.sshfs, looked at every 300 s"),
        ("9p", "2m", Verdict.WARNING, "/data: 9p, looked at every 120 s"),
    ],
)
def test_only_long_intervals_need_events(
    kind: str, interval: str, verdict: Verdict, seen: str
) -> None:
    """Problem 45; a disk of this host has events."""
    document = {"name": "lists", "path": "/data", "interval": interval}
    source = sections.read(SourceSection, document)
    found = without_events(source, Mount(Path("/data"), kind))
    assert (found.verdict, found.seen, found.fix) == (verdict, seen, None)


def test_mount_of_finds_the_mount_point_of_a_path() -> None:
    proc = mount_of(Path("/proc/self/status"))
    assert proc
    assert (proc.point, proc.kind) == (Path("/proc"), "proc")
    root = mount_of(Path("/"))
    assert root
    assert root.point == Path("/")
