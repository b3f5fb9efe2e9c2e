"""What depends on Postfix's version works on Debian 12, 13 and what will be 14.

Each map type that the host's Postfix has: built, set up, and used for mail of the real Mailman.
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
    """Every release."""
    return str(request.param)


def new_list() -> str:
    """A list that nobody has used yet."""
    return f"version-{next(_NUMBERS)}@lists.example.net"


def once(mx: Mx) -> subprocess.CompletedProcess[str]:
    """One sync by hand; it must succeed."""
    done = mx.host.ask("postfix-sync", "--once")
    assert done.returncode == 0, done
    return done


def doctor(mx: Mx) -> dict[str, dict[str, Any]]:
    """What doctor finds, by name; no failure is among it."""
    found = json.loads(mx.host.ask("postfix-sync", "doctor", "--json").stdout)
    checks = {one["name"]: one for one in found["checks"]}
    assert found["ok"], {name: one for name, one in checks.items() if one["status"] == "failure"}
    return checks


def set_up(mx: Mx, map_type: str) -> None:
    """Have main.cf name the maps as one type, with no daemon beside the test."""
    mx.host.systemctl("disable", "--now", SERVICE, TIMER)
    present = mx.host.run("postconf", "-h", "transport_maps").partition(":")[0]
    # hash and btree have files of one name: there is no direct way from one to the other.
    between = ("lmdb",) if {present, map_type} == {"btree", "hash"} else ()
    for one in (*between, map_type):
        mx.configure(postfix={"map_type": one})
        mx.host.run("postfix-sync", "setup", "--yes")
    assert f"{map_type}:{MAPS}/{ROUTES}" in mx.host.run("postconf", "-h", "transport_maps")


def refused(mx: Mx, name: str) -> bool:
    """Whether a list is unknown to Postfix."""
    return mx.send(name).last.code == 550


@pytest.mark.parametrize("map_type", sorted(INDEX_SUFFIX))
def test_a_list_comes_and_goes(mx: Mx, map_type: str) -> None:
    """Each time with one sync; a second one has nothing to do and nothing to say."""
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
    said = [line for line in once(mx).stderr.splitlines() if ": hint: " not in line]
    assert len(said) == warned, said
    assert all(f"map type {map_type}: the maps work, but Postfix warns" in line for line in said)
    suffix = INDEX_SUFFIX[map_type]
    assert {one.name for one in host.path(MAPS).glob(f"*{suffix}")} == {
        f"{one}{suffix}" for one in MAP_NAMES
    }

    found = doctor(mx)
    assert found["map_type"]["status"] == ("warning" if warned else "ok")
    assert {found[f"map:{one}"]["status"] for one in MAP_NAMES} == {"ok"}

    mx.remove(name)
    once(mx)
    wait_for(lambda: refused(mx, name), PATIENCE, f"550 for {name}")
    mx.deliver(FIRST)
