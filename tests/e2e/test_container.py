"""Mailman's container gets another address under load: all mail is delivered, nothing bounces.

The load is forty messages a second while the container is restarted, or removed and created again,
each time with another address. Without postfix-sync, Postfix sends the mail to the old address.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Measured, need
from tests.e2e.conftest import need_real_parts
from tests.parts import podman as parts
from tests.parts.common import public_directory
from tests.parts.podman import Podman
from tests.scenarios.moving_container import CONTAINER, HOST, PORT, Scenario

pytestmark = [pytest.mark.load, pytest.mark.alone]


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory that Postfix's users can reach."""
    need_real_parts()
    need(parts.available(), "podman, runc and iptables")
    with public_directory() as directory:
        yield directory


def restart(scenario: Scenario) -> None:
    """Restart the container, as an operator does."""
    scenario.podman.command("restart", CONTAINER)


def recreate(scenario: Scenario) -> None:
    """Remove the container and create it again, as compose does after an update of the image."""
    scenario.podman.command("rm", "--force", "--time", "0", CONTAINER)
    scenario.run_sink()


@pytest.mark.parametrize(
    ("hop", "move"),
    [(f"lmtp:[{HOST}]:{PORT}", restart), (f"lmtp:[172.19.199.2]:{PORT}", recreate)],
    ids=["by name", "by address"],
)
def test_mail_is_delivered_while_the_container_changes_its_address(
    directory: Path,
    hop: str,
    move: Callable[[Scenario], None],
    measured: Measured,
    request: pytest.FixtureRequest,
) -> None:
    """A next hop by name changes the hosts file; one by address (docker-mailman's), the routes."""
    with Podman(directory / "podman") as podman, podman.inside():
        scenario = Scenario(directory, podman, "lmdb", hop)
        scenario.run_sink()
        scenario.note()
        moved = scenario.load(lambda: move(scenario))

    assert len(set(moved.addresses)) == 2, "the container has the same address again"
    assert moved.bounces == []
    assert len(moved.accepted) == len(moved.sent), "something was refused"
    assert set(moved.copies) == moved.accepted, "something was lost"
    assert set(moved.copies.values()) == {1}, "something was delivered twice"
    name = f"container moved, {request.node.callspec.id}"
    measured(
        name,
        {"sent": len(moved.sent), "seconds_to_first_delivery": round(moved.until_delivered, 2)},
        f"{name}: sent {len(moved.sent)}, delivered {len(moved.copies)}, bounced 0,"
        f" first delivery {moved.until_delivered:.2f} s after its start",
    )
