"""Every exit status, and which one is returned if two apply.

0 in sync, 1 a change could not be applied, 2 usage, 65 content is invalid or refused, 69 a probe
failed, 75 out of reach, 77 not permitted, 78 configuration; of several, the first of 78, 77, 65, 1,
75, 69.
"""

import shutil
from collections.abc import Callable

import pytest

from postfix_sync.model.map_names import ROUTES
from tests.parts.common import free_port
from tests.parts.disk import remount, small_disk
from tests.parts.lmtp_sink import LmtpSink
from tests.parts.mailman_files import nine
from tests.parts.postfix_instance import PostfixInstance, mailman_parameters
from tests.parts.site import Site

MakeSite = Callable[..., Site]

ANTS = "ants@lists.example.net"

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("root")]


@pytest.fixture
def site(make_site: MakeSite, idle_postfix: PostfixInstance) -> Site:
    """A site that probes its destination."""
    made = make_site(options={"probe": {"level": "rcpt", "timeout": "20s"}})
    idle_postfix.postconf(**mailman_parameters(made.maps, made.map_type))
    made.configure()
    return made


@pytest.fixture
def down(site: Site) -> Site:
    """A site with a list installed, whose destination is down."""
    site.files.write(ANTS, hop=f"lmtp:[127.0.0.1]:{free_port()}")
    assert "down: connect" in site.once(expect=69)
    return site


def test_0_in_sync_and_the_destination_up(site: Site) -> None:
    with LmtpSink(nine(ANTS)) as sink:
        site.files.write(ANTS, hop=f"lmtp:[127.0.0.1]:{sink.port}")
        assert site.once() == ""
        assert site.once() == ""
        assert site.call("probe", "-q").returncode == 0
    assert site.call("status").returncode == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["--dry-run"],
        ["--force"],
        ["--unknown"],
        ["--once", "status"],
        ["probe", "0.0.0.0"],
        ["probe", "host:0"],
        ["--log-format", "xml"],
        ["-q", "-v"],
        ["nonsense"],
    ],
)
def test_2_usage(site: Site, arguments: list[str]) -> None:
    done = site.run(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: ")
    assert not site.maps.exists()


def test_69_a_probe_failed_after_the_maps_were_made(down: Site) -> None:
    assert down.installed(ROUTES).keys() == set(nine(ANTS))
    assert down.call("probe").returncode == 69


def test_65_refused_before_69(down: Site) -> None:
    down.files.put(ROUTES, "ants")
    said = down.once(expect=65)
    assert "truncated" in said
    assert "down: connect" in said


def test_75_out_of_reach_before_69(down: Site) -> None:
    (down.files.directory / ROUTES).unlink()
    said = down.once(expect=75)
    assert f"{down.files.directory / ROUTES}: No such file" in said
    assert "down: connect" in said
    assert down.installed(ROUTES).keys() == set(nine(ANTS))


def test_77_not_permitted_before_69(down: Site) -> None:
    (down.files.directory / ROUTES).chmod(0)
    said = down.once(expect=77)
    assert "is not permitted to read it" in said
    assert "down: connect" in said


def test_1_failed_to_apply_before_69(site: Site) -> None:
    hop = f"lmtp:[127.0.0.1]:{free_port()}"
    with small_disk(site.maps, "16m"):
        site.files.write(ANTS, hop=hop)
        site.once(expect=69)
        remount(site.maps, "ro")
        site.files.write(ANTS, "bees@lists.example.net", hop=hop)
        said = site.once(expect=1)
    assert "Read-only file system" in said
    assert "down: connect" in said


def test_65_refused_before_1_failed_to_apply(down: Site) -> None:
    """The source is bad, and a file of the state directory cannot be replaced."""
    down.files.put(ROUTES, "ants")
    state = down.state
    shutil.rmtree(state)
    state.mkdir()
    (state / "status.json").mkdir()  # a file cannot replace it
    said = down.once(expect=65)
    assert "status.json" in said
    assert "truncated" in said


def test_1_failed_to_apply_before_75_out_of_reach(down: Site) -> None:
    (down.files.directory / ROUTES).unlink()
    (down.state / "status.json").unlink()
    (down.state / "status.json").mkdir()
    said = down.once(expect=1)
    assert "No such file" in said
    assert "status.json" in said


def test_77_not_permitted_before_1(down: Site) -> None:
    (down.files.directory / ROUTES).chmod(0)
    (down.state / "status.json").unlink()
    (down.state / "status.json").mkdir()
    said = down.once(expect=77)
    assert "is not permitted to read it" in said
    assert "status.json" in said


def test_78_configuration_before_everything(down: Site) -> None:
    (down.files.directory / ROUTES).chmod(0)
    down.configure(postfix={"map_type": "dbm"})
    assert "postfix.map_type" in down.once(expect=78)


def test_78_no_postfix_there(down: Site) -> None:
    (down.files.directory / ROUTES).chmod(0)
    down.configure(postfix={"config_directory": str(down.directory / "nothing")})
    said = down.once(expect=78)
    assert f"{down.directory / 'nothing'}: no Postfix configuration" in said
    assert "hint: set postfix.config_directory" in said


def test_78_no_configuration(site: Site) -> None:
    site.config.unlink()
    # Site.start would write one.
    done = Site.run(site, "--once", "-c", str(site.directory / "none.yaml"))
    assert done.returncode == 78
    assert "none.yaml" in done.stderr


def test_status_75_before_the_first_pass(site: Site) -> None:
    done = site.run("status")
    assert done.returncode == 75
    assert "no sync has been run yet" in done.stderr
