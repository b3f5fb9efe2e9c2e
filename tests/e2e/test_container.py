"""Mailman's container comes back at another address under load: nothing bounces, all is delivered.

Forty messages a second while the container is restarted, and then removed and made anew, each time
with another address. Without postfix-sync, mail goes to where nobody is any more.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import need
from tests.e2e.conftest import Measured, need_real_parts
from tests.parts import podman as parts
from tests.parts.common import public_directory
from tests.parts.podman import Podman
from tests.scenarios.moving_container import CONTAINER, HOST, PORT, Scenario


@pytest.fixture
def directory() -> Iterator[Path]:
    """A place that Postfix's users can reach."""
    need_real_parts()
    need(parts.available(), "podman, runc and iptables")
    with public_directory() as directory:
        yield directory


@pytest.mark.parametrize(
    ("map_type", "hop"),
    [("lmdb", f"lmtp:[{HOST}]:{PORT}"), ("hash", f"lmtp:[172.19.199.2]:{PORT}")],
    ids=["by name", "by address"],
)
def test_a_container_moves_under_load(
    directory: Path, map_type: str, hop: str, measured: Measured
) -> None:
    """By name the hosts file changes; by address (docker-mailman writes its own) the routes do."""
    with Podman(directory / "podman") as podman, podman.inside():
        scenario = Scenario(directory, podman, map_type, hop)
        scenario.run_sink()

        def restart() -> None:
            podman.command("restart", CONTAINER)

        def make_anew() -> None:
            podman.command("rm", "--force", "--time", "0", CONTAINER)
            scenario.run_sink()
            scenario.starts.pop()
            scenario.addresses.pop()

        moved = scenario.load(restart, make_anew)

    assert len(set(moved.addresses)) == 3, "it has had the same address twice"
    assert moved.bounces == []
    assert len(moved.accepted) == len(moved.sent), "something was refused"
    assert set(moved.copies) == moved.accepted, "something was lost"
    assert set(moved.copies.values()) == {1}, "something was delivered twice"
    seconds = [moved.until_delivered(start) for start in (1, 2)]
    name = f"container moved, {map_type}"
    figures = {"sent": len(moved.sent), "seconds_to_first_delivery": [round(s, 2) for s in seconds]}
    measured(
        name,
        figures,
        f"{name}: sent {len(moved.sent)}, delivered {len(moved.copies)}, bounced 0, first delivery"
        f" {seconds[0]:.2f} s after a restart, {seconds[1]:.2f} s after it was made anew",
    )
