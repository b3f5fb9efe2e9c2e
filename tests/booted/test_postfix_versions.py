"""What depends on Postfix's version, on Debian 12, 13 and forky (the future 14).

Each map type that the host's Postfix supports is built, set up, and used for mail to a Mailman.
"""

import itertools
import json
import subprocess
from typing import Any

import pytest

from postfix_sync.model.map_names import INDEX_SUFFIX, MAP_NAMES, ROUTES
from tests.booted.conftest import FIRST
from tests.parts.common import PATIENCE, wait_for
from tests.parts.debian_root import ALL, FORKY, MAKING
from tests.parts.mx import MAPS, SERVICE, TIMER, Mx

pytestmark = [pytest.mark.booted, pytest.mark.slow]

WARNED = ("hash", "btree")
"""The types that Debian's Postfix 3.11 warns of."""

_NUMBERS = itertools.count()


@pytest.fixture(scope="module", params=ALL)
def release(request: pytest.FixtureRequest) -> str:
    """Each Debian release."""
    return str(request.param)


def new_list() -> str:
    """Return the name of a list that no test has used."""
    return f"version-{next(_NUMBERS)}@lists.example.net"


def once(mx: Mx) -> subprocess.CompletedProcess[str]:
    """Run one sync, which must succeed."""
    done = mx.host.ask("postfix-sync", "--once")
    assert done.returncode == 0, done
    return done


def doctor(mx: Mx) -> dict[str, dict[str, Any]]:
    """Return doctor's findings by name; none may be a failure."""
    found = json.loads(mx.host.ask("postfix-sync", "doctor", "--json").stdout)
    checks = {check["name"]: check for check in found["checks"]}
    failures = {name: check for name, check in checks.items() if check["status"] == "failure"}
    assert found["ok"], failures
    return checks


def set_up(mx: Mx, map_type: str) -> None:
    """Have main.cf name the maps with this type, and stop the daemon and the timer."""
    mx.host.systemctl("disable", "--now", SERVICE, TIMER)
    present = mx.host.run("postconf", "-h", "transport_maps").partition(":")[0]
    # hash and btree indexes have the same file name, so there is no direct change between them.
    between = ("lmdb",) if {present, map_type} == {"btree", "hash"} else ()
    for next_type in (*between, map_type):
        mx.configure(postfix={"map_type": next_type})
        mx.host.run("postfix-sync", "setup", "--yes")
    assert f"{map_type}:{MAPS}/{ROUTES}" in mx.host.run("postconf", "-h", "transport_maps")


def refused(mx: Mx, name: str) -> bool:
    """Whether Postfix refuses mail to a list as unknown."""
    return mx.send(name).last.code == 550


@pytest.mark.parametrize("map_type", sorted(INDEX_SUFFIX))
def test_list_is_added_and_removed_with_each_map_type(mx: Mx, map_type: str) -> None:
    """One sync is enough for each; a second one changes and logs nothing."""
    host = mx.host
    if map_type not in host.run("postconf", "-m").split():
        host.run("apt-get", "-q", "update", online=True)
        package = f"postfix-{map_type}"
        host.run("apt-get", "-q", "install", "-y", package, online=True, timeout=MAKING)
    warned = host.release == FORKY and map_type in WARNED
    set_up(mx, map_type)
    name = new_list()
    mx.create(name)
    once(mx)
    mx.deliver(name)
    table = f"{map_type}:{MAPS}/{ROUTES}"
    assert host.ask("postmap", "-q", name, table).stdout.startswith("lmtp:[")
    warnings = [line for line in once(mx).stderr.splitlines() if ": hint: " not in line]
    assert len(warnings) == warned, warnings
    assert all(
        f"map type {map_type}: the maps work, but Postfix warns" in line for line in warnings
    )
    suffix = INDEX_SUFFIX[map_type]
    assert {path.name for path in host.path(MAPS).glob(f"*{suffix}")} == {
        f"{map_name}{suffix}" for map_name in MAP_NAMES
    }

    found = doctor(mx)
    assert found["map_type"]["status"] == ("warning" if warned else "ok")
    assert {found[f"map:{map_name}"]["status"] for map_name in MAP_NAMES} == {"ok"}

    mx.remove(name)
    once(mx)
    wait_for(lambda: refused(mx, name), PATIENCE, f"550 for {name}")
    mx.deliver(FIRST)
