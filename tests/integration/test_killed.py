"""A sync that is killed at any step: Postfix can use what is on the disk, the next sync repairs it.

A sync is run again and again from the same state, and killed (SIGKILL) before its first event, its
second, and so on until one completes; kill_at/sitecustomize.py defines the events. After each kill,
the real postmap checks the disk. Then a sync runs with the source as it is now, and another one,
from the same interrupted state, with the source as it was before the change: each must end in
exactly the state of its source.

Interrupted states with identical bytes are checked once, as a sync depends only on the disk.
"""

import asyncio
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from postfix_sync.model.map_names import (
    ALIASES,
    DOMAINS,
    INDEX_SUFFIX,
    MAP_NAMES,
    RECIPIENTS,
    ROUTES,
)
from postfix_sync.model.maps import Maps, kind_of
from postfix_sync.postfix.installed_text import pieces
from postfix_sync.postfix.map_text import parse_installed
from postfix_sync.store.generations import Generations
from tests.parts.common import is_stopped, wait_for
from tests.parts.daemon import RunningDaemon
from tests.parts.disk import names, tree
from tests.parts.kill_at import Killer
from tests.parts.mailman_files import domains_text, lmtp_text, nine, vmap_text
from tests.parts.postfix_instance import PostfixInstance, mailman_parameters
from tests.parts.site import STATE, Site

pytestmark = [pytest.mark.kill, pytest.mark.slow]

ADDRESS = "127.0.0.9"
FOREIGN = b"127.0.0.1 localhost\n10.1.2.3 somebody.else # kept\n"

ENOUGH_TO_SEE = 3
MORE_THAN_ANY_SYNC = 200


@dataclass(frozen=True)
class Desired:
    """The content of a source: each list's next hop, and its alias in the mail host."""

    lists: Mapping[str, str]
    aliases: Mapping[str, str] = field(default_factory=dict)

    def write(self, site: Site) -> None:
        """Write the files as Mailman does."""
        files = site.files
        files.directory.mkdir(exist_ok=True)
        files.put(
            ROUTES, "".join(lmtp_text([name], hop) for name, hop in sorted(self.lists.items()))
        )
        files.put(DOMAINS, domains_text(self.domains))
        (files.directory / ALIASES).unlink(missing_ok=True)
        if self.aliases:
            files.put(ALIASES, vmap_text(self.aliases))

    @property
    def domains(self) -> dict[str, str]:
        """Return postfix_domains as Mailman writes it, without the mail hosts of alias domains."""
        hosts = {seen: known for known, seen in self.aliases.items()}
        return {_domain(name): _domain(hosts.get(name, name)) for name in self.lists}

    @property
    def tables(self) -> dict[str, dict[str, str]]:
        """Return the four maps of this desired state."""
        routes = {key: hop for name, hop in self.lists.items() for key in nine(name)}
        return {
            ROUTES: routes,
            RECIPIENTS: {key: key for key in routes},
            DOMAINS: {
                **{_domain(address): _domain(address) for address in self.aliases},
                **self.domains,
            },
            ALIASES: {
                key: value
                for known, seen in self.aliases.items()
                for key, value in zip(nine(known), nine(seen), strict=True)
            },
        }

    @property
    def hosts(self) -> bytes:
        """Return the hosts file of this desired state."""
        names = sorted({_host(hop) for hop in self.lists.values()})
        lines = "".join(f"{ADDRESS}\t{name}\n" for name in names)
        return FOREIGN + f"# BEGIN postfix-sync\n{lines}# END postfix-sync\n".encode()


def _domain(address: str) -> str:
    return address.rpartition("@")[2]


def _host(hop: str) -> str:
    return hop.partition("[")[2].partition("]")[0]


# One list is removed, with its host; one stays; one moves to a new host; one is added, with a
# domain and an alias domain.
BEFORE = Desired(
    {
        "goes@one.example": "lmtp:[mailman-zero]:8024",
        "stays@one.example": "lmtp:[mailman-one]:8024",
        "moves@one.example": "lmtp:[mailman-one]:8024",
    }
)
AFTER = Desired(
    {
        "stays@one.example": "lmtp:[mailman-one]:8024",
        "moves@one.example": "lmtp:[mailman-two]:8024",
        "comes@two.example": "lmtp:[mailman-two]:8024",
    },
    {"comes@lists.two.example": "comes@two.example"},
)
GROWN = Desired({**BEFORE.lists, "comes@two.example": "lmtp:[mailman-one]:8024"})
THROUGHOUT = ("stays@one.example", "moves@one.example")

EVERY_KEY = {name: sorted({*BEFORE.tables[name], *AFTER.tables[name]}) for name in MAP_NAMES}


@dataclass(frozen=True)
class Place:
    """A site with its own Postfix configuration, so that several can be used at once."""

    site: Site
    postfix: PostfixInstance

    @property
    def directory(self) -> Path:
        """Return the directory with all its files."""
        return self.site.directory

    def on_disk(self) -> dict[str, tuple[object, ...]]:
        """Return what the next sync can see: names, contents, and which indexes are out of date."""
        found: dict[str, tuple[object, ...]] = {}
        watched = (
            self.site.maps,
            self.site.hosts,
            *self.directory.glob(".*"),
            self.site.state,
            self.postfix.chroot_hosts.parent,
        )
        for path, entry in tree(*watched).items():
            # These files contain times.
            dated = ("status.json", "held.json", "installed.json", "retiring.json")
            content = b"" if any(name in path.name for name in dated) else entry.content
            found[str(path.relative_to(self.directory))] = (entry.kind, entry.mode, content)
        found["generation"] = (self._noted(),)
        for name in MAP_NAMES:
            text = self.site.maps / name
            index = self.site.maps / (name + INDEX_SUFFIX[self.site.map_type])
            if text.exists() and index.exists():
                found[f"{name} outdated"] = (index.stat().st_mtime_ns < text.stat().st_mtime_ns,)
        return found

    def _noted(self) -> int | None:
        """Return the generation that is noted as installed, if the note matches the maps."""
        with suppress(OSError, ValueError):
            note = json.loads((self.site.state / "installed.json").read_bytes())
            times = {name: (self.site.maps / name).stat().st_mtime_ns for name in note["texts"]}
            if times == {name: time for name, (time, _) in note["texts"].items()}:
                return int(note["generation"])
        return None


def _place(directory: Path, map_type: str) -> Place:
    directory.mkdir(exist_ok=True)
    site = Site(directory, directory / "postfix/etc", map_type, source={"address": ADDRESS})
    postfix = PostfixInstance(
        directory / "postfix", main_cf=mailman_parameters(site.maps, map_type)
    )
    postfix.chroot_hosts.parent.mkdir()
    site.configure()
    return Place(site, postfix)


def _new(directory: Path, map_type: str) -> Place:
    place = _place(directory, map_type)
    place.site.hosts.write_bytes(FOREIGN)
    return place


def _copy(original: Place, directory: Path) -> Place:
    """Copy the files to another place, with their times."""
    copy = _place(directory, original.site.map_type)
    for path in original.directory.iterdir():
        if path.name in {"config.yaml", "postfix"}:
            continue
        if path.is_dir():
            shutil.copytree(path, directory / path.name, symlinks=True)
        else:
            shutil.copy2(path, directory / path.name)
    shutil.copytree(
        original.postfix.chroot_hosts.parent, copy.postfix.chroot_hosts.parent, dirs_exist_ok=True
    )
    return copy


def _killed_before(
    killer: Killer,
    place: Place,
    event: int,
    command: Sequence[str] = ("--once",),
    *,
    changing: bool = False,
) -> tuple[str, ...]:
    """Kill a sync before an event; return its events, or nothing if it completed before."""
    done = killer.run(place.site, *command, event=event, changing=changing)
    if done.returncode == 0:
        assert len(done.events) < event, done
        return ()
    assert done.returncode == -signal.SIGKILL, done
    assert len(done.events) == event
    return done.events


def assert_serves(place: Place, throughout: Iterable[str]) -> None:
    """Check that Postfix can use what is on the disk for any length of time."""
    site = place.site
    index = {name: _lookup(site, name) for name in MAP_NAMES}
    routes, recipients = index[ROUTES], index[RECIPIENTS]
    for name in throughout:
        assert set(nine(name)) <= routes.keys()
        assert set(nine(name)) <= recipients.keys()
        assert _domain(name) in index[DOMAINS]
        for path in (
            site.maps / f"{map_name}{INDEX_SUFFIX[site.map_type]}" for map_name in MAP_NAMES
        ):
            assert path.exists()
    assert recipients.keys() <= routes.keys(), "accepted without a route"
    assert set(index[ALIASES].values()) <= routes.keys(), "an alias without a route"
    for path in (site.hosts, place.postfix.chroot_hosts):
        if not (path.exists() or path == site.hosts):
            assert not routes, "no hosts file in the chroot"
            continue
        lines = path.read_bytes()
        if path == site.hosts:
            assert lines.startswith(FOREIGN)
        missing = {_host(hop) for hop in routes.values()} - set(lines.decode().split())
        assert not missing, f"{path} lacks {missing}"


def _lookup(site: Site, name: str) -> dict[str, str]:
    """Look up every key that any of the states has, in an index that must not fail."""
    if not (site.maps / f"{name}{INDEX_SUFFIX[site.map_type]}").exists():
        return {}  # during a first install; a caller that needs the keys checks for them
    return site.lookup(name, EVERY_KEY[name])


def assert_is(place: Place, desired: Desired, *, held: bool = False) -> None:
    """Check that the disk has exactly the desired state, and no files of killed syncs."""
    site = place.site
    for name in MAP_NAMES:
        text = parse_installed(pieces(site.maps / name), kind_of(name))
        assert text == desired.tables[name], name
        assert site.lookup(name, EVERY_KEY[name]) == desired.tables[name], f"index of {name}"
    assert site.stray() == set()
    assert site.hosts.read_bytes() == desired.hosts
    assert place.postfix.chroot_hosts.read_bytes() == desired.hosts
    assert names(place.postfix.chroot_hosts.parent) == ["hosts"]
    assert names(site.state) == sorted([*STATE, *(["held.json"] if held else [])])
    status = site.status()
    assert status["held"] == held
    kept = Generations(site.state, 10, "postfix-sync rollback")
    assert Maps.of(asyncio.run(kept.load(status["generation"])).tables).tables == desired.tables
    assert kept.numbers()[0] == status["generation"]
    assert names(kept.directory) == sorted(f"{number}.json.gz" for number in kept.numbers())
    assert names(site.state / "sources") == ["lists.json"]
    assert names(site.directory) == [
        "config.yaml", "data", "hosts", "maps", "postfix", "state",
    ]  # fmt: skip


def assert_next_sync_ends_in(desired: Desired, interrupted: Place, directory: Path) -> None:
    """Check that a sync over a copy of the interrupted state succeeds silently."""
    place = _copy(interrupted, directory)
    desired.write(place.site)
    done = place.site.call("--once")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert_serves(place, desired.lists)
    assert place.site.retire() == ""
    assert_is(place, desired)
    shutil.rmtree(directory)


@dataclass
class Interruptions:
    """Kill a sync over copies of `start` before each of its events, and check what it leaves."""

    killer: Killer
    start: Place
    judge: Callable[[Place, Path], None]
    command: Sequence[str] = ("--once",)
    events: Sequence[int] = range(1, MORE_THAN_ANY_SYNC)
    changing: bool = False
    """Whether the killed sync changes indexes where it can, and rebuilds none."""
    seen: list[dict[str, tuple[object, ...]]] = field(default_factory=list)
    killed: int = 0
    failures: list[str] = field(default_factory=list)

    def make(self) -> None:
        """Kill one sync before each chosen event, until one completes."""
        for number in self.events:
            if not self._one(number) or len(self.failures) > ENOUGH_TO_SEE:
                break
        assert not self.failures, "\n\n".join(self.failures)

    def _one(self, number: int) -> bool:
        """Kill one sync, and check its state if it is new; return whether it was killed."""
        directory = self.start.directory.with_name(f"{self.start.directory.name}-{number}")
        place = _copy(self.start, directory)
        events = _killed_before(self.killer, place, number, self.command, changing=self.changing)
        found = place.on_disk()
        if events:
            self.killed += 1
            if found not in self.seen:
                self.seen.append(found)
                try:
                    self.judge(place, directory)
                except AssertionError as error:
                    self.failures.append(f"killed before event {events[-1]}:\n{error}")
        shutil.rmtree(directory)
        return bool(events)


@pytest.mark.parametrize("changing", [False, True], ids=["rebuilt", "changed"])
@pytest.mark.parametrize("map_type", ["hash", "lmdb"])
def test_sync_killed_during_a_change_loses_nothing_and_the_next_one_completes(
    public: Path, root: None, killer: Killer, map_type: str, changing: bool
) -> None:
    start = _new(public / "start", map_type)
    BEFORE.write(start.site)
    start.site.once()
    assert_is(start, BEFORE)
    AFTER.write(start.site)

    def judge(interrupted: Place, directory: Path) -> None:
        assert_serves(interrupted, THROUGHOUT)
        assert_next_sync_ends_in(AFTER, interrupted, directory.with_name(f"{directory.name}-on"))
        assert_next_sync_ends_in(BEFORE, interrupted, directory.with_name(f"{directory.name}-back"))

    interruptions = Interruptions(killer, start, judge, changing=changing)
    interruptions.make()
    # Hosts and chroot, five published maps, the lock, and status.json.
    assert interruptions.killed > 40
    assert len(interruptions.seen) > 15


def test_sync_killed_during_a_repair_leaves_a_state_that_can_be_repaired(
    public: Path, root: None, killer: Killer
) -> None:
    """An lmdb index was changed in place before its text, so the text does not match the index."""
    first = _new(public / "first", "lmdb")
    BEFORE.write(first.site)
    first.site.once()
    GROWN.write(first.site)
    events = killer.run(_copy(first, public / "all").site, "--once").events
    done = next(i for i, event in enumerate(events, 1) if event.endswith(f"/maps/{ROUTES}"))
    start = _copy(first, public / "start")
    assert "os.rename" in _killed_before(killer, start, done)[-1]
    assert set(nine("comes@two.example")) <= _lookup(start.site, ROUTES).keys()
    BEFORE.write(start.site)

    def judge(interrupted: Place, directory: Path) -> None:
        assert_serves(interrupted, THROUGHOUT)
        assert_next_sync_ends_in(BEFORE, interrupted, directory.with_name(f"{directory.name}-back"))

    interruptions = Interruptions(killer, start, judge)
    interruptions.make()
    assert interruptions.killed > 15
    assert len(interruptions.seen) > 5


@pytest.mark.parametrize("map_type", ["hash", "lmdb"])
def test_sync_killed_in_the_first_install_is_completed_by_the_next_one(
    public: Path, root: None, killer: Killer, map_type: str
) -> None:
    start = _new(public / "start", map_type)
    AFTER.write(start.site)

    def judge(interrupted: Place, directory: Path) -> None:
        assert_serves(interrupted, ())
        assert_next_sync_ends_in(AFTER, interrupted, directory.with_name(f"{directory.name}-on"))

    interruptions = Interruptions(killer, start, judge)
    interruptions.make()
    assert interruptions.killed > 30
    assert len(interruptions.seen) > 15


def _chosen(killer: Killer, start: Place, *command: str) -> list[int]:
    """Return the events of a command that change the state directory, or publish maps."""
    done = killer.run(_copy(start, start.directory.with_name("through")).site, *command)
    assert done.returncode == 0, done
    return [
        number
        for number, event in enumerate(done.events, 1)
        if "/state/" in event or (" os.rename " in event and "/maps/" in event)
    ]


@pytest.mark.parametrize("command", ["rollback", "resume"])
def test_rollback_or_resume_that_is_killed_is_completed_or_has_no_effect(
    public: Path, root: None, killer: Killer, command: str
) -> None:
    start = _new(public / "start", "hash")
    for desired in (BEFORE, AFTER):
        desired.write(start.site)
        start.site.once()
    arguments = ["resume"]
    if command == "resume":
        assert start.site.call("rollback", "1").returncode == 0
        start.site.retire()
        assert_is(start, BEFORE, held=True)
    else:
        arguments = ["rollback", "1"]

    def judge(interrupted: Place, directory: Path) -> None:
        assert_serves(interrupted, THROUGHOUT)
        held = (interrupted.site.state / "held.json").exists()
        place = _copy(interrupted, directory.with_name(f"{directory.name}-on"))
        done = place.site.call("--once")
        assert (done.returncode, done.stdout) == (0, "")
        assert ("held at generation 1" in done.stderr) == bool(done.stderr) == held
        place.site.retire()
        assert_is(place, BEFORE if held else AFTER, held=held)
        shutil.rmtree(place.directory)

    interruptions = Interruptions(
        killer, start, judge, arguments, _chosen(killer, start, *arguments)
    )
    interruptions.make()
    assert interruptions.killed > 15
    assert len(interruptions.seen) > 5


def test_resume_killed_between_release_and_sync_is_completed(
    public: Path, root: None, killer: Killer
) -> None:
    """If the source is away meanwhile, lists that the rollback restored are accepted as well."""
    start = _new(public / "start", "lmdb")
    for desired in (BEFORE, AFTER):
        desired.write(start.site)
        start.site.once()
    assert start.site.call("rollback", "1").returncode == 0
    events = killer.run(_copy(start, public / "through").site, "resume").events
    released = 1 + next(
        i for i, event in enumerate(events) if "os.remove" in event and "held" in event
    )
    assert _killed_before(killer, start, released + 1, ["resume"])
    assert "held.json" not in names(start.site.state)
    present = start.site.installed(RECIPIENTS)
    assert present == BEFORE.tables[RECIPIENTS], "the sync had not begun"

    away = start.site.files.directory.rename(public / "away")
    start.site.once(expect=75)
    assert_serves(start, [*AFTER.lists, "goes@one.example"])
    assert start.site.installed(ROUTES).items() >= AFTER.tables[ROUTES].items()
    away.rename(start.site.files.directory)
    with RunningDaemon(start.site) as daemon:
        daemon.wait_for("-1 list: goes@one.example")
        daemon.look()
        assert daemon.stop() == 0
    (start.directory / "notify").unlink(missing_ok=True)
    for log in start.directory.glob("log.*"):
        log.unlink()
    start.site.retire()
    assert_is(start, AFTER)


def _children(pid: int, name: str) -> list[int]:
    """Return the ids of a process's children with this name."""
    found = subprocess.run(
        ["pgrep", "-P", str(pid), "-x", name], capture_output=True, text=True, check=False
    )
    return [int(line) for line in found.stdout.split()]


def _is_build(pid: int) -> bool:
    """Return whether the process is a postmap that builds a map."""
    try:
        return b"-q" not in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except FileNotFoundError:
        return False


def _runs(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("map_type", ["hash", "lmdb"])
def test_sync_waits_for_postmap_of_a_killed_sync(public: Path, root: None, map_type: str) -> None:
    """The orphan inherits the lock, so two postmaps never write to one directory."""
    place = _new(public / "start", map_type)
    site = place.site
    BEFORE.write(site)
    site.once()
    many = [f"list{number}@one.example" for number in range(20_000)]
    site.files.write("stays@one.example", *many, hop="lmtp:[mailman-one]:8024")
    with site.start("--once", "--force") as killed:
        # The orphan is stopped, so it runs for as long as the test needs.
        orphan = wait_for(lambda: _stopped_build(killed.pid), 30, "a postmap that writes")
        try:
            killed.kill()
            killed.wait()
            lock = (site.state / "lock").stat().st_ino
            with site.start("--once", "--force") as waiting:
                wait_for(
                    lambda: lock in _open_files(waiting.pid), 30, "a sync that waits for the lock"
                )
                for name in ("stays@one.example",):
                    assert site.lookup(ROUTES, nine(name)).keys() == set(nine(name))
                # The sync waits for the lock, which the killed sync still holds.
                with pytest.raises(TimeoutError):
                    wait_for(
                        # 0: /proc/locks changed while it was read.
                        lambda: _holder(lock) not in {0, killed.pid},
                        1,
                        "another holder",
                    )
                assert _runs(orphan)
                os.kill(orphan, signal.SIGCONT)
                stdout, stderr = waiting.communicate(timeout=60)
        finally:
            if _runs(orphan):
                os.kill(orphan, signal.SIGCONT)
    assert (waiting.returncode, stdout, stderr) == (0, "", "")
    assert not _runs(orphan)
    assert len(site.installed(RECIPIENTS)) == 9 * 20_001
    assert site.installed(ROUTES).keys() >= site.installed(RECIPIENTS).keys()
    assert site.stray() == set()


def _stopped_build(parent: int) -> int:
    """Stop a postmap of `parent` that builds a map; return its process id, or 0."""
    for pid in _children(parent, "postmap"):
        if _is_build(pid):
            with suppress(ProcessLookupError):  # it has ended
                os.kill(pid, signal.SIGSTOP)
            return pid if is_stopped(pid) else 0
    return 0


def _holder(inode: int) -> int:
    """Return the process that locked this file (others may have inherited the lock), or 0."""
    for line in Path("/proc/locks").read_text().splitlines():
        fields = line.split()
        if fields[1] == "FLOCK" and fields[5].rpartition(":")[2] == str(inode):
            return int(fields[4])
    return 0


def _open_files(pid: int) -> set[int]:
    """Return the inodes of the files that a process has open."""
    found = set()
    for path in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.add(path.stat().st_ino)
        except FileNotFoundError:
            continue
    return found
