"""Postfix 3.11: a map type that it warns of, and one that it opens as another (Debian forky)."""

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
"""Of so many RCPTs, one is of a whole message: more than that would only wait in the queue."""

LEVEL = "non_bdb_migration_level"


@pytest.fixture(scope="module", params=[FORKY])
def release(request: pytest.FixtureRequest) -> str:
    """The one with Postfix 3.11."""
    return str(request.param)


def named(mx: Mx) -> set[str]:
    """The map types that main.cf names."""
    values = mx.host.run(
        "postconf", "-h", "transport_maps", "relay_domains", "relay_recipient_maps"
    )
    return {line.partition(":")[0] for line in values.splitlines()}


def rcpt(mx: Mx) -> int:
    """What Postfix says to RCPT for a list: its code; no message is sent."""
    with mx.network["mx"].inside():
        return load.rcpt(25, FIRST)


def shell_under_load(
    mx: Mx, command: str, allowed: Collection[int] = (250,)
) -> subprocess.CompletedProcess[str]:
    """Run a command while Postfix is asked for a list all the time, with a message now and then.

    No other reply than `allowed` may come.
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
def test_doctor_changes_the_type_over(mx: Mx, configured: str) -> None:
    """Its command keeps mail flowing, also beside the daemon, and leaves nothing to warn of."""
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
def test_undo_does_not_go_back_to_an_old_index(mx: Mx) -> None:
    """It says which command builds it, and that works."""
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
    # Without the maps, the lists' domain is no concern of this Postfix.
    done = shell_under_load(mx, build.replace("--undo", "--undo --yes"), {250, 454, 554})
    assert done.returncode == 0, done.stderr
    assert MAPS not in host.run("postconf", "-n")
    host.run("postfix-sync", "setup", "--yes")


@pytest.mark.transition
@pytest.mark.parametrize("level", ["enable-redirect", "enable-reindex"])
@pytest.mark.parametrize(("map_type", "opened"), [("hash", "cdb"), ("btree", "lmdb")])
def test_the_type_that_postfix_opens_instead(
    mx: Mx, level: str, map_type: str, opened: str
) -> None:
    """Is built before Postfix is told of it, checked, and kept in step."""
    host = mx.host
    set_up(mx, map_type)
    for name in MAP_NAMES:
        host.path(f"{MAPS}/{name}.{opened}").unlink(missing_ok=True)
    try:
        # As docs/debian.md says it: processes that start read main.cf before anyone reloads it.
        build = f"postmap {' '.join(f'{opened}:{MAPS}/{one}' for one in MAP_NAMES)}"
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
        assert {found[f"map:{one}"]["status"] for one in MAP_NAMES} == {"ok"}

        # The index that Postfix opens is the one that is looked at.
        host.path(f"{MAPS}/{ROUTES}.{opened}").unlink()
        found = json.loads(host.ask("postfix-sync", "doctor", "--json").stdout)["checks"]
        broken = next(one for one in found if one["name"] == f"map:{ROUTES}")
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
