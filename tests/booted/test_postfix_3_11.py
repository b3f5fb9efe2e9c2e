"""Postfix 3.11 (Debian forky): deprecated map types, and types that it opens as another type."""

import json
import subprocess
from collections import Counter
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor

import pytest

from postfix_sync.model.map_names import MAP_NAMES, RECIPIENTS, ROUTES
from tests.booted.conftest import FIRST
from tests.booted.test_postfix_versions import doctor, new_list, once, refused, set_up
from tests.parts import load
from tests.parts.common import PATIENCE, wait_for
from tests.parts.debian_root import FORKY
from tests.parts.mx import CONFIG, MAPS, SERVICE, Mx

pytestmark = [pytest.mark.booted, pytest.mark.slow]

MESSAGES = 20
"""One RCPT of so many is part of a whole message; more messages would only fill the queue."""

LEVEL = "non_bdb_migration_level"


@pytest.fixture(scope="module", params=[FORKY])
def release(request: pytest.FixtureRequest) -> str:
    """The Debian release with Postfix 3.11."""
    return str(request.param)


def named(mx: Mx) -> set[str]:
    """Return the map types that main.cf names."""
    values = mx.host.run(
        "postconf", "-h", "transport_maps", "relay_domains", "relay_recipient_maps"
    )
    return {line.partition(":")[0] for line in values.splitlines()}


def rcpt(mx: Mx) -> int:
    """Return Postfix's reply code to RCPT for the list, without sending a message."""
    with mx.network["mx"].inside():
        return load.rcpt(25, FIRST)


def shell_under_load(
    mx: Mx, command: str, allowed: Collection[int] = (250,)
) -> subprocess.CompletedProcess[str]:
    """Run a command during a constant load of RCPTs for the list and some messages.

    Only the codes in `allowed` may be replied.
    """
    codes: Counter[int] = Counter()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(mx.host.ask, "sh", "-c", command, timeout=300)
        while not running.done():
            codes[rcpt(mx)] += 1
            if codes.total() % MESSAGES == 1:
                codes[mx.send(FIRST).last.code] += 1
    assert codes.keys() <= {*allowed}, codes
    return running.result()


@pytest.mark.transition
@pytest.mark.parametrize("configured", ["auto", "hash"])
def test_fix_of_doctor_changes_a_deprecated_map_type_without_loss(mx: Mx, configured: str) -> None:
    """The daemon is running meanwhile; afterwards doctor has no warning."""
    host = mx.host
    set_up(mx, "hash")
    mx.configure(postfix={"map_type": configured})
    host.systemctl("enable", "--now", SERVICE)
    mx.deliver(FIRST)
    found = doctor(mx)["map_type"]
    assert found["status"] == "warning"
    assert "deprecated" in found["seen"]
    (host.path(MAPS) / f"{ROUTES}.lmdb").unlink(missing_ok=True)

    done = shell_under_load(mx, found["fix"])
    assert done.returncode == 0, done
    assert named(mx) == {"lmdb"}
    name = new_list()
    mx.create(name)
    mx.deliver(name)
    assert doctor(mx)["map_type"]["status"] == "ok"
    assert "hash" not in host.path(CONFIG).read_text()
    assert not [line for line in host.journal("postfix*") if "status=bounced" in line]


@pytest.mark.transition
def test_undo_is_refused_if_the_previous_index_is_missing(mx: Mx) -> None:
    """Its hint is a command that builds the index and then undoes the setup."""
    host = mx.host
    set_up(mx, "hash")
    mx.configure()
    host.run("postfix-sync", "setup", "--yes")
    for name in MAP_NAMES:
        host.path(f"{MAPS}/{name}.db").unlink()
    before = host.path("/etc/postfix/main.cf").read_text()
    done = host.ask("postfix-sync", "setup", "--undo", "--yes")
    assert done.returncode == 1, done
    assert f"but there is no {MAPS}/postfix_" in done.stderr
    assert host.path("/etc/postfix/main.cf").read_text() == before
    build = done.stderr.partition(": hint: ")[2].strip()
    # Without the maps, Postfix does not accept mail for the lists' domain.
    done = shell_under_load(mx, build.replace("--undo", "--undo --yes"), {250, 454, 554})
    assert done.returncode == 0, done.stderr
    assert MAPS not in host.run("postconf", "-n")
    host.run("postfix-sync", "setup", "--yes")


@pytest.mark.transition
@pytest.mark.parametrize("level", ["enable-redirect", "enable-reindex"])
@pytest.mark.parametrize(("map_type", "opened"), [("hash", "cdb"), ("btree", "lmdb")])
def test_map_type_that_postfix_redirects_is_built_as_the_opened_type(
    mx: Mx, level: str, map_type: str, opened: str
) -> None:
    """It is built before Postfix's level is changed, checked by doctor, and kept in sync."""
    host = mx.host
    set_up(mx, map_type)
    for name in MAP_NAMES:
        host.path(f"{MAPS}/{name}.{opened}").unlink(missing_ok=True)
    try:
        # As in docs/debian.md: processes that start read main.cf even before a reload.
        build = f"postmap {' '.join(f'{opened}:{MAPS}/{name}' for name in MAP_NAMES)}"
        switch = f"postconf -e {LEVEL}={level} && postfix reload && postfix-sync --once"
        done = shell_under_load(mx, f"{build} && {switch}")
        assert done.returncode == 0, done
        assert named(mx) == {map_type}
        name = new_list()
        mx.create(name)
        assert once(mx).stderr == ""
        mx.deliver(name)
        assert once(mx).stderr == ""
        for map_name in (ROUTES, RECIPIENTS):
            assert host.ask("postmap", "-q", name, f"{opened}:{MAPS}/{map_name}").stdout
        assert not host.path(f"{MAPS}/.staging").exists()
        found = doctor(mx)
        assert f"this Postfix opens {opened} instead" in found["map_type"]["seen"]
        assert {found[f"map:{map_name}"]["status"] for map_name in MAP_NAMES} == {"ok"}

        # doctor checks the index that Postfix opens.
        host.path(f"{MAPS}/{ROUTES}.{opened}").unlink()
        found = json.loads(host.ask("postfix-sync", "doctor", "--json").stdout)["checks"]
        broken = next(check for check in found if check["name"] == f"map:{ROUTES}")
        assert broken["seen"] == f"{MAPS}/{ROUTES}.{opened}: no such file"
        once(mx)
        assert host.path(f"{MAPS}/{ROUTES}.{opened}").exists()
        mx.remove(name)
        once(mx)
        wait_for(lambda: refused(mx, name), PATIENCE, f"550 for {name}")
        mx.deliver(FIRST)
    finally:
        host.run("postconf", "-X", LEVEL)
        host.run("postfix-sync", "--once")
        host.run("postfix", "reload")
