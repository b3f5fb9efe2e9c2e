"""Query and control one Postfix instance, by postconf(1), postmap(1), postfix(1), postqueue(1).

Every command names the instance with `-c`, so that any instance on a host with several can be used.
Nothing here changes main.cf.
"""

import asyncio
import fcntl
import json
import math
import os
import re
import tempfile
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from postfix_sync.errors import ApplyError, ConfigError, NotPermitted, SyncError, TimedOut, why
from postfix_sync.model import BOTH_FAMILIES, INDEX_SUFFIX, Destination, Families, Table
from postfix_sync.postfix.folding import Fold, fold_ascii, fold_unicode
from postfix_sync.postfix.index_type import _TEXT, SUCCESSORS, IndexType
from postfix_sync.postfix.master_cf import LMTP, Service, lmtp_is_chrooted, service
from postfix_sync.postfix.match_list import items
from postfix_sync.postfix.postconf import postconf, settings_of
from postfix_sync.postfix.queue import Queued, unquoted, without_extensions
from postfix_sync.system.commands import Completed, find_command, run
from postfix_sync.system.connections import connections_to
from postfix_sync.system.files import denied_hint, open_file, read_file, replace_file, unwritable
from postfix_sync.system.interfaces import has_ipv6

PARAMETERS = (
    "alias_database",
    "alias_maps",
    "canonical_maps",
    "compatibility_level",
    "default_database_type",
    "default_transport",
    "inet_protocols",
    "lmtp_connect_timeout",
    "lmtp_host_lookup",
    "local_recipient_maps",
    "local_transport",
    "message_size_limit",
    "mydestination",
    "owner_request_special",
    "parent_domain_matches_subdomains",
    "queue_directory",
    "queue_minfree",
    "recipient_canonical_maps",
    "recipient_delimiter",
    "relay_domains",
    "relay_recipient_maps",
    "relay_transport",
    "relocated_maps",
    "sender_canonical_maps",
    "smtpd_recipient_restrictions",
    "smtpd_reject_unlisted_recipient",
    "smtpd_relay_restrictions",
    "smtputf8_enable",
    "soft_bounce",
    "transport_maps",
    "unknown_local_recipient_reject_code",
    "unknown_relay_recipient_reject_code",
    "unknown_virtual_mailbox_reject_code",
    "virtual_alias_domains",
    "virtual_alias_maps",
    "virtual_mailbox_domains",
    "virtual_mailbox_maps",
    "virtual_transport",
)

TRANSPORTS = ("default_transport", "local_transport", "relay_transport", "virtual_transport")
"""The parameters whose transport delivers mail that no route is for."""

REMEMBERING = ("qmgr", "trivial-rewrite")
"""The programs that remember tables: a reload is complete once all their processes are new."""

STARTED_WITH = 2.0
"""Seconds within which master(8), once started, starts qmgr(8)."""

TURNOVER_TIMEOUT = 30.0
"""Seconds; trivial-rewrite(8) checks every 10 s whether a table has changed, and ends if so."""

TURNOVER_POLL = 0.05

SLOWEST = 100_000
"""Bytes a second that postmap(1) processes at least, on a slow disk and a busy host: measured, it
takes 5 s for 68 MB on two idle cores."""

AT_ONCE = 4
"""Processes of postqueue(1) at the same time: more of them are not faster."""


@dataclass(frozen=True)
class Postfix:
    """One Postfix instance: its configuration directory, and its configuration by postconf(1)."""

    config_directory: Path
    parameters: Mapping[str, str]
    """The values of PARAMETERS as they take effect, $names expanded."""
    unexpanded: Mapping[str, str]
    """The values of PARAMETERS as they are written."""
    map_types: frozenset[str]
    lmtp_chrooted: bool
    master_cf: str = ""
    """The lines of master(5) as `postconf -M` prints them; empty if there is no such file."""
    version: str = ""
    families: Families = BOTH_FAMILIES
    """The versions of IP that lmtp(8) may use: inet_protocols of main.cf, or of master.cf."""
    habitual: frozenset[str] = frozenset()
    """The lines that postmap(1) prints for every query: warnings about main.cf, not about a map."""
    _index_types: dict[str, IndexType] = field(default_factory=dict, repr=False, compare=False)

    @property
    def queue_directory(self) -> Path:
        """The directory of the queue, which is also the root of chrooted services."""
        return Path(self.parameters["queue_directory"])

    @property
    def several_next_hops(self) -> bool:
        """Whether a transport(5) entry may name several next hops: Postfix 3.5 and later."""
        return self.at_least(3, 5)

    def at_least(self, major: int, minor: int) -> bool:
        """Return whether this is version `major`.`minor` of Postfix, or a later one."""
        found = re.match(r"(\d+)\.(\d+)", self.version)
        return found is not None and (int(found[1]), int(found[2])) >= (major, minor)

    async def values(self, *names: str) -> dict[str, str]:
        """Read parameters of main.cf as they take effect, $names expanded. Raises ConfigError."""
        return settings_of(await postconf(self.config_directory, "-x", *names))

    async def written_as(self, name: str) -> str:
        """Read a parameter as it is written, with its $names. Raises ConfigError."""
        return settings_of(await postconf(self.config_directory, name))[name]

    async def services(self) -> tuple["Service", ...]:
        """Read the services of master.cf; none if there is no such file. Raises ConfigError."""
        if not self.master_cf:
            return ()
        overrides = settings_of(await postconf(self.config_directory, "-P", "-x"))
        level = self.parameters["compatibility_level"]
        return tuple(
            service(line, overrides, level) for line in self.master_cf.splitlines() if line
        )

    async def warnings(self) -> list[str]:
        """Return the warnings of postconf(1) about main.cf and master.cf."""
        return await self._warnings("-n")

    async def type_warnings(self) -> list[str]:
        """Return the warnings of postconf(1) about map types that it cannot load."""
        return await self._warnings("-m")

    async def _warnings(self, option: str) -> list[str]:
        done = await run(self._command("postconf", option))
        warnings = [line.partition("warning: ")[2] for line in done.stderr.splitlines()]
        return [line for line in warnings if line]

    async def expanded(self, values: Mapping[str, str]) -> dict[str, str]:
        """Expand the $names in `values`, as if main.cf had these values. Raises ConfigError."""
        given = [word for name, value in values.items() for word in ("-o", f"{name}={value}")]
        return settings_of(await postconf(self.config_directory, "-x", *given, *values))

    async def written(self) -> dict[str, str]:
        """Read the parameters that main.cf sets, $names expanded. Raises ConfigError.

        The operator's own parameters are left out, because they may be only parts of other values:
        `hash:/etc/`, used as `${indexed}transport`, is not a table. Restriction classes are kept.
        """
        found = settings_of(await postconf(self.config_directory, "-x", "-n", "-C", "builtin"))
        if classes := items(found.get("smtpd_restriction_classes", "")):
            found |= settings_of(await postconf(self.config_directory, "-x", *classes))
        return found

    def _command(self, name: str, *arguments: str) -> list[str]:
        return [find_command(name), "-c", str(self.config_directory), *arguments]

    async def index_type(self, name: str) -> IndexType:
        """Find out which type this Postfix opens for a name: have it build and query a tiny map.

        The map is in a private directory, which is removed afterwards. If the map cannot be built
        there, for instance because the file system is full, the type counts as what its name says:
        the error then appears when a real map is built.
        """
        if not self.at_least(3, 11):
            return IndexType(name, name)  # redirection and its warnings exist since 3.11
        if name not in self._index_types:
            self._index_types[name] = await self._try_out(name)
        return self._index_types[name]

    async def _try_out(self, name: str) -> IndexType:
        as_named = IndexType(name, name)
        try:
            with tempfile.TemporaryDirectory(prefix="postfix-sync-") as directory:
                text = Path(directory) / "map"
                text.write_text("key value\n")
                table = f"{name}:{text}"
                built = await run(self._command("postmap", table))
                queried = await run(self._command("postmap", "-q", "key", table))
                opened = [
                    kind
                    for kind in (name, *INDEX_SUFFIX)
                    if IndexType(kind, kind).index(text).exists()
                ]
        except (OSError, SyncError):
            return as_named
        if built.status or queried.status or not opened:
            return as_named
        lines = {*self._complaints(built), *self._complaints(queried)}
        standing = frozenset(line.replace(str(text), _TEXT) for line in lines)
        return IndexType(name, opened[0], standing)

    async def successor(self, kind: IndexType) -> str | None:
        """Return the map type to use instead of one that Postfix warns of, if it has one."""
        for name in SUCCESSORS if kind.warnings else ():
            if name in self.map_types and not (await self.index_type(name)).warnings:
                return name
        return None

    async def build(self, kind: IndexType, text: Path, size: int, lock: int) -> None:
        """Compile a text of `size` bytes into the index beside it.

        postmap(1) inherits the file descriptor `lock`, and holds that lock as long as it runs.

        Raises ApplyError if postmap(1) prints anything about the map, because its exit status is 0
        even if it skips lines.
        """
        table = f"{kind.name}:{text}"
        done = await run(
            self._command("postmap", table), keep_open=[lock], timeout=_long_enough(size)
        )
        said = self._about(kind, text, done)
        if done.status or said:
            raise _failed(f"postmap {table}", done, said)

    async def query(self, kind: IndexType, text: Path, keys: Sequence[str]) -> Table:
        """Query the index beside `text` for `keys`; return the entries that it has.

        Raises ApplyError if postmap(1) fails, or prints anything else about the map.
        """
        table = f"{kind.name}:{text}"
        done = await self._query(table, keys, timeout=_long_enough(sum(map(len, keys))))
        said = self._about(kind, text, done)
        # An index that is older than its text can still be queried.
        older = f"is older than source file {text}"
        if any(not line.endswith(older) for line in said):
            raise _failed(f"postmap -q - {table}", done, said)
        return _pairs(done)

    async def look_up(self, table: str, keys: Iterable[str], *, timeout: float) -> Table:
        """Query any table that main.cf may name for `keys`; return the entries that it has.

        Raises ApplyError if the table cannot be queried, or not within `timeout` seconds.
        """
        done = await self._query(table, keys, timeout=timeout)
        said = self._complaints(done)
        if any(": fatal: " in line or ": error: " in line for line in said):
            raise _failed(f"postmap -q - {table}", done, said)
        return _pairs(done)

    async def _query(self, table: str, keys: Iterable[str], *, timeout: float) -> Completed:
        lines = "".join(f"{key}\n" for key in keys).encode()
        # Postfix's daemons run in the queue directory, so the path of a socket may be relative.
        done = await run(
            self._command("postmap", "-q", "-", table),
            stdin=lines,
            timeout=timeout,
            directory=self.queue_directory if self.queue_directory.is_dir() else None,
        )
        # Status 1 without output means that none of the keys was found.
        if done.status not in (0, 1):
            raise _failed(f"postmap -q - {table}", done, self._complaints(done))
        return done

    def _complaints(self, done: Completed) -> list[str]:
        return [line for line in done.stderr.splitlines() if line and line not in self.habitual]

    def _about(self, kind: IndexType, text: Path, done: Completed) -> list[str]:
        """Return postmap(1)'s lines about one map, without those about main.cf and the type."""
        return [line for line in self._complaints(done) if not kind.is_standing(line, text)]

    @property
    def master(self) -> int | None:
        """The process id of this instance's master(8), None if Postfix is stopped.

        Raises NotPermitted if that cannot be determined, because it decides whether a reload is
        due. `postfix status` takes a second if Postfix is stopped, and logs a line each time.
        """
        path = self.queue_directory / "pid/master.pid"
        try:
            pid = int(read_file(path))
            # The command line is empty if the process has ended and is a zombie.
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            running = words[0].rpartition(b"/")[2] == b"master"
        except PermissionError as error:
            raise NotPermitted(
                f"{path}: {why(error)}: cannot determine whether Postfix runs",
                denied_hint(path, error),
            ) from None
        except (OSError, ValueError):
            return None
        return pid if running else None

    @property
    def runs_elsewhere(self) -> bool:
        """Whether this instance runs in another PID namespace.

        Its processes can then not be seen or signalled. master(8) holds a lock on its pid file as
        long as it runs (flock(2)); this tries to take that lock, as `postfix status` does.
        """
        if self.master is not None:
            return False
        try:
            with open_file(self.queue_directory / "pid/master.pid") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            pass  # it has never run
        return False

    @property
    def other_domains(self) -> frozenset[str]:
        """The domains that main.cf names outside of tables, in every class except relay."""
        parameters = ("mydestination", "virtual_alias_domains", "virtual_mailbox_domains")
        named = (item for name in parameters for item in items(self.parameters[name]))
        return frozenset(item.lower() for item in named if not re.search("[:/!]", item))

    @property
    def default_refuses(self) -> bool:
        """Whether the transport error(8) refuses some mail that no route is for."""
        return any(
            self.parameters[parameter].partition(":")[0] == "error" for parameter in TRANSPORTS
        )

    @property
    def reload_age(self) -> float:
        """Seconds since Postfix was last reloaded; infinite if never since its start.

        A reload replaces the process of qmgr(8), and keeps that of master(8).
        """
        master = self.master
        age = min((_age(pid) for pid in self.processes("qmgr")), default=math.inf)
        return age if master is not None and _age(master) - age > STARTED_WITH else math.inf

    async def reload(self) -> None:
        """Reload Postfix, and wait until no process remembers the previous tables.

        `postfix reload` itself only sends signals.

        Raises:
            ApplyError: it failed, or an old process still runs after TURNOVER_TIMEOUT seconds.
        """
        before = self.processes(*REMEMBERING)
        try:
            done = await run(self._command("postfix", "reload"))
        except TimedOut as error:
            raise TimedOut(
                error.message,
                "run it by hand, and see in another terminal what it waits for:"
                f" postfix -c {self.config_directory} reload",
            ) from None
        if done.status:
            raise ApplyError(
                f"postfix reload: {done.complaint}",
                f"see what it says: postfix -c {self.config_directory} check",
            )
        await self._ended(before)

    async def start(self) -> None:
        """Start a Postfix that is stopped. Raises ApplyError if it does not start."""
        done = await run(self._command("postfix", "start"))
        if done.status:
            raise ApplyError(f"postfix start: {done.complaint}")

    async def check(self) -> str:
        """Return what `postfix check` reports; empty if Postfix could start so configured.

        Without a terminal, it writes most of that to Postfix's log; only its exit status counts.
        On Debian 13 it also copies /etc/hosts into the chroot (configure-instance.sh), which may
        lack names that the copy there has: the previous copy is restored.

        Raises ApplyError or NotPermitted if the copy cannot be restored.
        """
        copy = self.queue_directory / "etc/hosts"
        before = read_file(copy) if copy.is_file() else None
        done = await run(self._command("postfix", "check"))
        try:
            if before is not None and read_file(copy) != before:
                replace_file(copy, before)
        except OSError as error:
            raise unwritable(copy, error) from None
        return done.complaint if done.status else ""

    def processes(self, *names: str) -> frozenset[int]:
        """Find the process ids of this instance's programs; none if Postfix is stopped."""
        master = str(self.master)
        found = set()
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                pid, _, rest = stat.read_text("utf-8", "replace").partition(" (")
            except OSError:
                continue  # the process has ended meanwhile
            name, _, fields = rest.rpartition(") ")
            if name in names and fields.split()[1] == master:
                found.add(int(pid))
        return frozenset(found)

    def connections(self, destinations: Collection[Destination]) -> frozenset[str]:
        """Find this instance's open connections to some destinations; none if it is stopped."""
        master = self.master if destinations else None
        return connections_to(master, destinations) if master else frozenset()

    def oldest(self, *names: str) -> float:
        """Return the age in seconds of the oldest process of its programs; 0 without any."""
        ages = (_age(pid) for pid in self.processes(*names))
        return max((age for age in ages if age < math.inf), default=0.0)

    async def _ended(self, before: frozenset[int]) -> None:
        give_up = time.monotonic() + TURNOVER_TIMEOUT
        while left := before & self.processes(*REMEMBERING):
            if time.monotonic() > give_up:
                raise ApplyError(
                    f"process {min(left)} of Postfix still uses the previous tables"
                    f" {TURNOVER_TIMEOUT:g} s after the reload; nothing else is changed before it"
                    " ends",
                    f"postfix -c {self.config_directory} reload",
                )
            await asyncio.sleep(TURNOVER_POLL)

    async def queue(self) -> list[Queued]:
        """List the messages in the queue. Raises ApplyError if postqueue(1) fails."""
        if not (self.queue_directory / "active").is_dir():
            return []  # this Postfix was never started
        done = await run(self._command("postqueue", "-j"))
        if done.status:
            raise ApplyError(f"postqueue -j: {done.complaint}")
        try:
            return await asyncio.to_thread(_messages, done.stdout)
        except (ValueError, KeyError, TypeError) as error:
            raise ApplyError(f"postqueue -j: its output cannot be parsed: {error}") from None

    async def deliver_now(self, queue_ids: Sequence[str]) -> None:
        """Have Postfix retry deferred messages now; those on hold, or already removed, are skipped.

        postqueue(1) takes only one queue id, so each message needs a process. With the first of
        them, qmgr(8) also forgets which destinations are dead, so that it tries new mail for them.

        Raises ApplyError if postqueue(1) fails.
        """
        for start in range(0, len(queue_ids), AT_ONCE):
            done = await asyncio.gather(
                *(
                    run(self._command("postqueue", "-i", queue_id))
                    for queue_id in queue_ids[start : start + AT_ONCE]
                )
            )
            for completed in done:
                if completed.status:
                    raise ApplyError(f"postqueue -i: {completed.complaint}")

    async def queued_recipients(self, before: float) -> frozenset[str]:
        """Return the folded recipients of queued mail, each with its extensions and without them.

        Only mail that arrived by `before`, in seconds since the epoch, counts.

        Raises ApplyError if postqueue(1) fails.
        """
        queue = await self.queue()
        return self.recipients_of(message for message in queue if message.arrival_time <= before)

    def recipients_of(self, messages: Iterable[Queued]) -> frozenset[str]:
        """Return the folded recipients of messages, each with its extensions and without them."""
        delimiters = self.parameters["recipient_delimiter"]
        fold = self.fold
        return frozenset(
            key
            for message in messages
            for address, _ in message.recipients
            for key in without_extensions(fold(address), delimiters)
        )

    @property
    def fold(self) -> Fold:
        """The function that folds keys and addresses as this Postfix does."""
        return _fold(self.parameters)


def _age(pid: int) -> float:
    """Return the seconds since a process was started (proc(5), starttime); infinite if it ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(") ")[2]
    except OSError:
        return math.inf
    ticks = int(fields.split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def _messages(printed: str) -> list[Queued]:
    # Addresses may hold U+2028 and its like, at which splitlines() would split.
    return [_queued(json.loads(line)) for line in printed.split("\n") if line]


def _failed(command: str, done: Completed, said: Sequence[str]) -> ApplyError:
    """Make the error of a postmap(1) that printed lines (`said`) about its map, or failed."""
    return ApplyError(f"{command}: {'; '.join(said) or done.complaint}")


def _long_enough(size: int) -> float:
    """Return the timeout in seconds of a postmap(1) that processes `size` bytes."""
    return 60 + size / SLOWEST


def _pairs(done: Completed) -> Table:
    """Parse what `postmap -q -` prints."""
    pairs = (line.partition("\t") for line in done.stdout.split("\n") if line)
    return {key: value for key, _, value in pairs}


def _queued(found: dict[str, Any]) -> Queued:
    """Parse a line of `postqueue -j` (Postfix 3.1 and later)."""
    return Queued(
        queue_id=found["queue_id"],
        queue_name=found["queue_name"],
        arrival_time=float(found["arrival_time"]),
        recipients=tuple(
            (unquoted(recipient["address"]), recipient.get("delay_reason", ""))
            for recipient in found["recipients"]
        ),
    )


def list_file(path: str) -> str:
    """Read a file that a list in main.cf names; an unreadable file is empty, as for Postfix."""
    try:
        return read_file(Path(path)).decode("utf-8", "replace")
    except OSError:
        return ""


async def inspect(config_directory: Path) -> Postfix:
    """Read an instance's configuration. Raises ConfigError if it has none, or no postmap(1)."""
    parameters = settings_of(await postconf(config_directory, "-x", *PARAMETERS))
    unexpanded = settings_of(await postconf(config_directory, *PARAMETERS))
    # The built-in value, because main.cf may set mail_version to anything.
    version = await postconf(config_directory, "-d", "-h", "mail_version")
    services = ""  # an instance that is not set up yet may have no master.cf
    if (config_directory / "master.cf").exists():
        services = await postconf(config_directory, "-M")
    types = await postconf(config_directory, "-m")
    nothing = await run(
        [find_command("postmap"), "-c", str(config_directory), "-q", "x", "static:x"]
    )
    if nothing.status:
        raise ConfigError(
            f"{config_directory}: postmap can't be used with this configuration, so no map can be"
            f" built: {nothing.complaint}",
            f"fix that; then this prints x: postmap -c {config_directory} -q x static:x",
        )
    if missing := [name for name in PARAMETERS if name not in parameters]:
        raise ConfigError(
            f"{config_directory}: this Postfix does not know {', '.join(missing)}",
            "postfix-sync needs Postfix 3.0 or later",
        )
    return Postfix(
        config_directory=config_directory,
        parameters=parameters,
        unexpanded=unexpanded,
        map_types=frozenset(types.split()),
        lmtp_chrooted=lmtp_is_chrooted(services, parameters["compatibility_level"]),
        master_cf=services,
        version=version.strip(),
        families=await _families(config_directory, parameters["inet_protocols"], services),
        habitual=frozenset(nothing.stderr.splitlines()),
    )


async def families_of(config_directory: Path) -> Families:
    """Return the versions of IP that lmtp(8) may use. Raises ConfigError if there is no Postfix."""
    value = settings_of(await postconf(config_directory, "-x", "inet_protocols"))["inet_protocols"]
    services = ""
    if (config_directory / "master.cf").exists():
        services = await postconf(config_directory, "-M", "/".join(LMTP))
    return await _families(config_directory, value, services)


async def _families(config_directory: Path, value: str, services: str) -> Families:
    """Return the versions of IP that inet_protocols permits to lmtp(8).

    `value` is that of main.cf, which the lmtp service of master.cf may override.
    """
    name = "inet_protocols"
    if any(name in line and tuple(line.split()[:2]) == LMTP for line in services.splitlines()):
        overrides = settings_of(await postconf(config_directory, "-P", "-x"))
        value = overrides.get("/".join((*LMTP, name)), value)
    named = set(items(value.lower()))
    found = {version for version in (4, 6) if named & {"all", f"ipv{version}"}}
    if 4 in found and not has_ipv6():
        found.discard(6)
    return frozenset(found)


async def fold_of(config_directory: Path) -> Fold:
    """Return how an instance folds keys. Raises ConfigError if there is no Postfix."""
    return _fold(settings_of(await postconf(config_directory, "-x", "smtputf8_enable")))


def _fold(parameters: Mapping[str, str]) -> Fold:
    """Return how postmap(1) and the lookups of a Postfix fold keys (SMTPUTF8_README)."""
    if parameters.get("smtputf8_enable") == "yes":
        return fold_unicode
    return fold_ascii
