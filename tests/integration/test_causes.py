"""A failure of one of Postfix's programs is reported with its true cause.

These main.cf files, maps and programs are real; only their faults are made.
"""

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from postfix_sync.errors import ApplyError, TimedOut
from postfix_sync.model.map_names import ROUTES
from postfix_sync.model.table import Table
from postfix_sync.postfix.index_change import Publish
from postfix_sync.postfix.instance import inspect
from postfix_sync.postfix.map_directory import MapDirectory
from postfix_sync.postfix.publish import publish, staging_of
from postfix_sync.system.commands import find_command, run
from tests.parts.disk import small_disk
from tests.parts.postfix_instance import PostfixInstance
from tests.parts.site import Site

pytestmark = [pytest.mark.usefixtures("root")]

ANTS = "ants@lists.example.net"
HOP = "lmtp:[127.0.0.1]:8024"


def test_main_cf_that_only_postconf_accepts_is_named_as_the_cause(
    make_site: Callable[..., Site], idle_postfix: PostfixInstance
) -> None:
    """postmap rejects this main.cf on every call, and that error must be reported."""
    site = make_site("lmdb")
    site.files.write(ANTS)
    with (idle_postfix.config_directory / "main.cf").open("a") as main_cf:
        main_cf.write("import_environment = {\n")
    idle_postfix.age()
    message, hint = site.once(expect=78).splitlines()
    assert "import_environment: missing '}' in" in message
    assert "exit status" not in message
    assert f"postmap -c {idle_postfix.config_directory} -q x static:x" in hint
    assert not site.maps.exists()


async def _publish(directory: Path, config_directory: Path, map_type: str, lock: int) -> None:
    """Build a map with an entry that postmap ignores silently, because it is a comment."""
    instance = await inspect(config_directory)
    maps = MapDirectory(directory, await instance.index_type(map_type), instance)
    with staging_of(maps):
        table = Table.of({ANTS: HOP, "#bees": HOP})
        await publish(maps, Publish(ROUTES, table, fresh=True), lock)


@pytest.mark.parametrize("map_type", ["lmdb", "hash"])
def test_incomplete_index_is_not_blamed_on_a_disk_with_free_space(
    idle_postfix: PostfixInstance, map_type: str
) -> None:
    maps = idle_postfix.directory / "maps"
    with open("/dev/null") as lock, pytest.raises(ApplyError) as raised:
        asyncio.run(_publish(maps, idle_postfix.config_directory, map_type, lock.fileno()))
    assert "read back, the index does not hold #bees as written" in raised.value.message
    assert "space" not in raised.value.message
    assert "there is room left" in raised.value.hint


def test_map_type_is_tested_although_temporary_directory_is_full(
    make_site: Callable[..., Site],
    idle_postfix: PostfixInstance,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A temporary directory that is full or read-only does not delay any list."""
    site = make_site("hash")
    site.files.write(ANTS)
    with small_disk(tmp_path / "tmp", "4k"):
        (tmp_path / "tmp/full").write_bytes(b"x" * 4096)
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
        site.once()
    assert site.installed(ROUTES)[ANTS].startswith("lmtp:")


def test_reload_that_hangs_is_named_in_the_error(idle_postfix: PostfixInstance) -> None:
    """The error names the verb, whichever options come before it."""
    programs = idle_postfix.directory / "libexec"
    shutil.copytree("/usr/lib/postfix/sbin", programs, symlinks=True)
    script = programs / "postfix-script"
    script.unlink()
    script.write_text("#!/bin/sh\nexec sleep 1000\n")
    script.chmod(0o755)
    idle_postfix.postconf(daemon_directory=str(programs))
    command = [find_command("postfix"), "-c", str(idle_postfix.config_directory), "reload"]
    with pytest.raises(TimedOut, match=r"^postfix reload: not done after 0\.5 s; killed$"):
        asyncio.run(run(command, timeout=0.5))
