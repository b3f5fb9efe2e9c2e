"""A rollback installs an earlier state and holds it, whatever the sources have, until `resume`."""

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from postfix_sync.model.map_names import DOMAINS, MAP_NAMES, RECIPIENTS, ROUTES
from postfix_sync.store.generations import SUFFIX
from tests.parts.common import wait_for
from tests.parts.daemon import RunningDaemon
from tests.parts.disk import Entry, fill, mounted, small_disk, tree
from tests.parts.mailman_files import MailmanFiles, nine
from tests.parts.postfix_instance import PostfixInstance, mailman_parameters
from tests.parts.site import STATE, Site

MakeSite = Callable[..., Site]

ANTS, BEES, CATS = "ants@a.example", "bees@b.example", "cats@a.example"
ONE, TWO = "lmtp:[one]:8024", "lmtp:[two]:8024"

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("root")]


@pytest.fixture
def make(make_site: MakeSite, idle_postfix: PostfixInstance) -> MakeSite:
    """Return a function like make_site; main.cf names the maps, so a good sync prints nothing."""

    def make(map_type: str = "lmdb", **others: object) -> Site:
        site = make_site(map_type, **others)
        idle_postfix.postconf(**mailman_parameters(site.maps, map_type))
        return site

    return make


def states(site: Site, *of: tuple[str, ...], hop: str = ONE) -> Site:
    """Sync the site with each of these sets of lists, which makes as many generations."""
    for lists in of:
        site.files.write(*lists, hop=hop)
        assert site.once() == ""
    return site


def lists(site: Site) -> set[str]:
    """Return the accepted lists; routes of removed lists may be kept."""
    accepted = site.installed(RECIPIENTS)
    assert accepted.keys() <= site.installed(ROUTES).keys()
    names = {key for key in accepted if "-" not in key}
    assert {key for name in names for key in nine(name)} == accepted.keys()
    assert {name.rpartition("@")[2] for name in names} == site.installed(DOMAINS).keys()
    return names


def run(site: Site, *arguments: str, status: int = 0) -> tuple[list[str], list[str]]:
    """Run a command, and return the lines of its standard output and standard error."""
    done = site.call(*arguments)
    assert done.returncode == status, done
    return done.stdout.splitlines(), done.stderr.splitlines()


def on_disk(site: Site) -> dict[Path, Entry]:
    """Return the files that a sync must not change during a hold."""
    kept = ("held.json", "installed.json", "generations", "sources")
    return tree(site.maps, site.hosts, *(site.state / name for name in kept))


def test_rollback_installs_a_generation_and_holds_it_until_resume(make: MakeSite) -> None:
    site = make(source={"address": "127.0.0.9"})
    states(site, (ANTS,), (ANTS, BEES))
    states(site, (ANTS, BEES, CATS), hop=TWO)
    resume = f"postfix-sync -c {site.config} resume"

    listed, said = run(site, "rollback")
    assert not said
    assert [line.split()[0] for line in listed if line[:1].isdigit()] == ["3", "2", "1"]
    assert listed[1].split()[2:] == ["3", "27", "installed"]
    assert listed[3:6] == [
        f"  -1 list: {CATS}",
        f"  ~2 lists: {ANTS}, {BEES} -> {ONE}",
        listed[5],
    ]
    assert listed[5].split()[2:] == ["1", "9"]

    printed, said = run(site, "rollback", "1")
    assert not said
    assert printed[1:4] == [
        f"lists: -2 lists: {BEES}, {CATS}",
        "lists: -1 domain: b.example",
        f"lists: ~1 list: {ANTS} -> {ONE}",
    ]
    assert printed[-1].startswith("generation 1 is installed and held;")
    assert printed[-1].endswith(resume)
    assert site.installed(ROUTES).items() >= dict.fromkeys(nine(ANTS), ONE).items()
    assert lists(site) == {ANTS}
    assert b"127.0.0.9\tone\n" in site.hosts.read_bytes()
    status = site.status()
    assert (status["generation"], status["held"]) == (1, True)

    site.files.write(ANTS, CATS, "dogs@d.example", hop=TWO)
    before = on_disk(site)
    pending = f"+2 lists: {CATS}, dogs@d.example; +1 domain: d.example; ~1 list: {ANTS} -> {TWO}"
    for arguments in ((), ("--force",)):
        message, hint = site.once(*arguments).splitlines()
        assert "warning: held at generation 1 since 20" in message
        assert message.endswith(f"; pending: {pending}")
        assert hint.endswith(f"let it happen: {resume}")
    preview, said = run(site, "--once", "--dry-run")
    assert "held at generation 1 since" in said[0]
    assert f"+ {CATS} {CATS}" in preview
    assert f"~ {ANTS} {ONE} -> {TWO}" in preview
    assert run(site, "-q", "--once") == ([], [])
    assert on_disk(site) == before
    status = site.status()
    assert (status["generation"], status["held"], status["waiting"]) == (1, True, pending)
    assert status["sources"]["lists"]["state"] == "ok"
    assert f"pending: +2 lists: {CATS}" in site.call("status").stdout

    printed, said = run(site, "resume")
    assert not said
    assert f"lists: +2 lists: {CATS}, dogs@d.example" in printed
    assert lists(site) == {ANTS, CATS, "dogs@d.example"}
    assert b"127.0.0.9\ttwo\n# END" in site.hosts.read_bytes()
    status = site.status()
    assert (status["generation"], status["held"], status["waiting"]) == (4, False, "")
    site.retire()
    assert sorted(path.name for path in site.state.iterdir()) == STATE
    assert site.once() == ""
    assert run(site, "resume") == (["nothing had to change"], [])


def test_rollback_to_missing_or_damaged_generation_changes_nothing(make: MakeSite) -> None:
    site = make()
    listed, said = run(site, "rollback")
    assert (listed[0], said) == ("no generation is kept yet; run a sync:", [])
    states(site, (ANTS,), (ANTS, BEES))
    damaged = site.state / "generations/1.json.gz"
    damaged.write_bytes(b"")
    before = tree(site.directory)
    _, said = run(site, "rollback", "3", status=2)
    assert "there is no generation 3" in said[0]
    assert f"there are 1, 2: see postfix-sync -c {site.config} rollback" in said[1]
    _, said = run(site, "rollback", "1", status=1)
    assert f"{damaged}: is damaged" in said[0]
    run(site, "rollback", "bees", status=2)
    listed, said = run(site, "rollback")
    assert [line.split()[0] for line in listed if line[:1].isdigit()] == ["2"]
    assert f"{damaged}: is damaged" in said[0]
    assert tree(site.directory) == before


@pytest.mark.parametrize("trouble", ["away", "refused"])
def test_rollback_works_while_the_source_is_missing_or_refused(
    make: MakeSite, trouble: str
) -> None:
    site = states(make(), (ANTS,), (ANTS, BEES))
    if trouble == "away":
        shutil.rmtree(site.files.directory)
        error, state = 75, "stale"
    else:
        site.files.put(ROUTES, "ants")
        error, state = 65, "refused"
    _, said = run(site, "rollback", "1")
    assert not said
    assert lists(site) == {ANTS}
    site.once(expect=error)
    assert lists(site) == {ANTS}
    assert site.status()["sources"]["lists"]["state"] == state
    assert site.status()["held"] is True
    # After the resume, the last good lists of the source are used again.
    run(site, "resume", status=error)
    assert lists(site) == {ANTS, BEES}
    assert site.status()["held"] is False


def test_rollback_restores_address_of_a_name_that_no_source_configures(make: MakeSite) -> None:
    site = make(source={"address": "127.0.0.9"})
    states(site, (ANTS,))
    plain = site.hosts.read_bytes().partition(b"# BEGIN")[0]
    site.configure(sources=[{"name": "lists", "path": str(site.files.directory)}])
    states(site, (ANTS, BEES), hop="lmtp:[127.0.0.1]:8024")
    assert site.retire() == ""
    assert site.hosts.read_bytes() == plain
    run(site, "rollback", "1")
    assert site.hosts.read_bytes() == plain + (
        b"# BEGIN postfix-sync\n127.0.0.9\tone\n# END postfix-sync\n"
    )
    site.once()
    assert b"127.0.0.9\tone\n" in site.hosts.read_bytes()
    run(site, "resume")
    site.retire()
    assert site.hosts.read_bytes() == plain
    # A foreign line has the current address.
    site.hosts.write_bytes(plain + b"127.0.0.8 one\n")
    run(site, "rollback", "1")
    assert site.hosts.read_bytes() == plain + b"127.0.0.8 one\n"
    # The same with the address of a source.
    site.hosts.write_bytes(plain)
    site.configure(sources=[{**_source(site), "address": "127.0.0.7"}])
    site.files.write(ANTS, BEES, hop=ONE)
    site.once()
    assert b"127.0.0.7\tone\n" in site.hosts.read_bytes()


def _source(site: Site) -> dict[str, str]:
    return {"name": "lists", "path": str(site.files.directory)}


def test_configured_address_is_applied_during_a_hold(make: MakeSite) -> None:
    """Mailman's address is not part of the hold: otherwise mail would be deferred needlessly."""
    site = make(source={"address": "127.0.0.9"})
    states(site, (ANTS,), (ANTS, BEES))
    run(site, "rollback", "1")
    site.configure(sources=[{**_source(site), "address": "127.0.0.7"}])
    site.once()
    assert b"127.0.0.7\tone\n# END" in site.hosts.read_bytes()
    assert lists(site) == {ANTS}


MANY = tuple(f"list{number}@a.example" for number in range(30))


def test_guards_compare_with_the_lists_that_were_last_accepted(make: MakeSite) -> None:
    site = states(make(), MANY)
    site.files.write(*MANY[:2], hop=ONE)
    site.once(expect=65)
    assert site.once("--force") == ""
    run(site, "rollback", "1")
    assert lists(site) == {*MANY}
    # The change from 30 to 2 lists was forced before.
    _, said = run(site, "resume")
    assert not said
    assert lists(site) == {*MANY[:2]}

    # Changes during the hold are checked against the guards at the resume.
    site.files.write(*MANY, hop=ONE)
    site.once()
    site.files.write(*MANY[:20], hop=ONE)
    site.once()
    run(site, "rollback", "1")
    site.files.write(*MANY[:5], hop=ONE)
    assert "guard.max_removed" in site.once(expect=65)
    assert "held at generation 1" in site.once("--force")
    assert lists(site) == {*MANY}
    _, said = run(site, "resume", status=65)
    assert "15 of 20 lists are gone" in said[0]
    assert lists(site) == {*MANY[:20]}, "what was accepted last"
    assert site.once("--force") == ""
    assert lists(site) == {*MANY[:5]}


def test_resume_removes_restored_list_although_another_source_is_missing(make: MakeSite) -> None:
    site = make()
    one, two = (MailmanFiles(site.directory / name) for name in ("one", "two"))
    site.configure(
        sources=[{"name": each.directory.name, "path": str(each.directory)} for each in (one, two)]
    )
    one.write(ANTS, CATS, hop="lmtp:[127.0.0.1]:8024")
    two.write(BEES, hop="lmtp:[127.0.0.1]:8025")
    site.once()
    one.write(ANTS, hop="lmtp:[127.0.0.1]:8024")
    site.once()
    shutil.rmtree(two.directory)
    site.once(expect=75)
    assert lists(site) == {ANTS, BEES}
    run(site, "rollback", "1")
    assert lists(site) == {ANTS, BEES, CATS}
    run(site, "resume", status=75)
    assert lists(site) == {ANTS, BEES}


def test_damaged_maps_are_repaired_during_a_hold(make: MakeSite) -> None:
    site = states(make(), (ANTS,), (ANTS, BEES))
    run(site, "rollback", "1")
    site.retire()
    held = {name: (site.maps / name).read_bytes() for name in MAP_NAMES}

    def is_as_held() -> bool:
        return lists(site) == {ANTS} and held == {
            name: (site.maps / name).read_bytes() for name in MAP_NAMES
        }

    text = site.maps / RECIPIENTS
    text.write_bytes(text.read_bytes() + b"mallory@a.example\tOK\n")
    (site.maps / f"{DOMAINS}.lmdb").unlink()
    (site.maps / ROUTES).write_bytes(b"rubbish")
    site.once()
    assert is_as_held()
    assert site.stray() == set()
    assert site.status()["generation"] == 1

    # The hold, or its generation, is lost: then no map is changed.
    (site.state / "held.json").write_bytes(b"{")
    before = on_disk(site)
    said = site.once(expect=1)
    assert "held.json: can't be read" in said
    assert f"go on: postfix-sync -c {site.config} resume" in said
    assert on_disk(site) == before
    assert site.status()["held"] is True
    run(site, "rollback", "1")
    (site.state / "generations/1.json.gz").unlink()
    assert "there is no generation 1; the maps are unchanged" in site.once(expect=1)
    assert is_as_held()
    run(site, "resume")
    assert lists(site) == {ANTS, BEES}


def test_hold_applies_to_maps_of_another_type(make: MakeSite) -> None:
    site = states(make("lmdb"), (ANTS,), (ANTS, BEES))
    run(site, "rollback", "1")
    site.configure(postfix={"map_type": "hash"})
    hashed = Site(site.directory, site.config_directory, "hash")
    hashed.once()
    assert lists(hashed) == {ANTS}
    assert hashed.status()["maps"][ROUTES]["type"] == "hash"


def test_state_of_a_version_without_generations_becomes_a_generation(make: MakeSite) -> None:
    site = states(make(), (ANTS,))
    (site.state / "installed.json").unlink()
    shutil.rmtree(site.state / "generations")
    states(site, (ANTS, BEES))
    assert site.status()["generation"] == 2
    run(site, "rollback", "1")
    assert lists(site) == {ANTS}


def test_sync_without_a_change_writes_nothing(make: MakeSite) -> None:
    site = states(make(options={"generations": 2}), (ANTS,), (BEES,), (ANTS,))
    assert site.status()["generation"] == 1
    before = on_disk(site)
    assert site.once() == ""
    assert on_disk(site) == before
    states(site, (CATS,))
    kept = {path.name for path in (site.state / "generations").iterdir()}
    assert kept == {"1.json.gz", "3.json.gz"}, "the one before and the present one"


def test_rollback_whose_hold_cannot_be_written_changes_nothing(make: MakeSite) -> None:
    site = make()
    with small_disk(site.state, "8m"):
        states(site, (ANTS,), (ANTS, BEES))
        filler = fill(site.state)
        before = tree(site.maps)
        _, said = run(site, "rollback", "1", status=1)
        assert f"{site.state / 'held.json'}: No space left on device" in said[0]
        assert tree(site.maps) == before
        assert not (site.state / "held.json").exists()
        filler.unlink()
        run(site, "rollback", "1")
        assert lists(site) == {ANTS}
        # A release needs no space on the disk.
        fill(site.state)
        run(site, "resume")
        assert lists(site) == {ANTS, BEES}
        assert site.once() == ""
        assert site.status()["generation"] == 2


def test_daemon_keeps_a_hold_and_reports_it_once(make: MakeSite) -> None:
    site = states(make(source={"interval": "1h"}), (ANTS,), (ANTS, BEES))
    with RunningDaemon(site) as daemon:
        daemon.wait_until_it_watches()
        run(site, "rollback", "1")
        daemon.look()
        daemon.wait_for(f"pending: +1 list: {BEES}; +1 domain: b.example")
        assert "STATUS=held at generation 1 since" in daemon.notify.received[-1]
        site.files.write(ANTS, BEES, CATS, hop=ONE)
        daemon.wait_for(f"pending: +2 lists: {BEES}, {CATS}; +1 domain: b.example")
        daemon.look()
        daemon.look()
        assert daemon.count("pending:") == 2
        assert daemon.count("postfix-sync: held at generation 1 since") == 1
        assert lists(site) == {ANTS}
        assert daemon.stop() == 0
    with RunningDaemon(site) as daemon:
        daemon.wait_for(f"pending: +2 lists: {BEES}, {CATS}")
        daemon.look()
        assert lists(site) == {ANTS}
        run(site, "resume")
        assert lists(site) == {ANTS, BEES, CATS}
        daemon.look()
        daemon.wait_for("the hold was released")
        site.files.write(ANTS, CATS, hop=ONE)
        daemon.wait_for(f"lists: -1 list: {BEES}")
        wait_for(lambda: lists(site) == {ANTS, CATS}, 20, "a change as any other")
        assert daemon.stop() == 0


def test_rollback_waits_for_a_running_sync(make: MakeSite) -> None:
    site = states(make(), (ANTS,), (ANTS, BEES))
    site.files.write(ANTS, BEES, *(f"l{number}@a.example" for number in range(3000)), hop=ONE)
    with site.start("--once") as working:
        wait_for((site.maps / ".staging").exists, 20, "a sync that publishes")
        working.send_signal(signal.SIGSTOP)
        with site.start("rollback", "1") as waiting:
            working.send_signal(signal.SIGCONT)
            _, said = waiting.communicate(timeout=60)
            assert (waiting.returncode, said) == (0, "")
        working.communicate(timeout=60)
    assert working.returncode == 0
    assert lists(site) == {ANTS}
    site.once()
    assert lists(site) == {ANTS}


def test_doctor_reports_hold_and_damaged_generation_with_fixes(make: MakeSite) -> None:
    site = states(make(), (ANTS,), (ANTS, BEES))
    assert checks(site, "held", "generation") == {
        "held": ("ok", None),
        "generations": ("ok", None),
    }
    run(site, "rollback", "1")
    damaged = site.state / "generations/2.json.gz"
    damaged.write_bytes(b"")
    assert checks(site, "held", "generation") == {
        "held": ("warning", f"postfix-sync -c {site.config} resume"),
        "generation:2": ("warning", f"rm {damaged}"),
        "generations": ("ok", None),
    }
    damaged.unlink()
    run(site, "resume")
    assert {status for status, _ in checks(site, "held", "generation").values()} == {"ok"}
    assert lists(site) == {ANTS, BEES}


def checks(site: Site, *names: str) -> dict[str, tuple[str, str | None]]:
    """Return status and fix of doctor's checks whose name begins with one of these."""
    found = json.loads(site.call("doctor", "--json").stdout)["checks"]
    return {
        check["name"]: (check["status"], check["fix"])
        for check in found
        if check["name"].startswith(names)
    }


def test_rollback_does_not_remove_its_generation_to_keep_the_present_state(make: MakeSite) -> None:
    site = states(make(), (ANTS,), (ANTS, BEES), (ANTS, BEES, CATS))
    # As if the last sync was killed, or the disk was full, before it kept the installed state.
    (site.state / "generations/3.json.gz").unlink()
    (site.state / "installed.json").unlink()
    site.configure(generations=2)
    run(site, "rollback", "1")
    assert lists(site) == {ANTS}
    run(site, "resume")
    assert lists(site) == {ANTS, BEES, CATS}


def test_rollback_reports_that_the_present_state_cannot_be_kept(make: MakeSite) -> None:
    """There is no note of the installed generation, and the generation's file is read-only."""
    site = states(make(), (ANTS,), (ANTS, BEES))
    (site.state / "installed.json").unlink()
    newest = site.state / f"generations/2{SUFFIX}"
    with mounted(newest, "-o", "bind,ro", str(newest)):
        done = site.call("rollback", "1")
    assert done.returncode == 0, done
    assert "a rollback can't install the present state later" in done.stderr
    assert lists(site) == {ANTS}
