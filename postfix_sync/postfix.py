"""All that is asked of Postfix, through its own commands: postconf, postmap, postfix, postqueue.

Every command names the instance with `-c`, so that a second instance on the same host is served as
well as the first. Only `edit` changes a main.cf, and setup has it edit a copy.
"""

import asyncio
import json
import math
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from postfix_sync import tables
from postfix_sync.errors import ApplyError, ConfigError, NotPermitted, SyncError, why
from postfix_sync.interfaces import has_ipv6
from postfix_sync.main_cf.match_list import items
from postfix_sync.model import BOTH_FAMILIES, Families, Table
from postfix_sync.queue import Queued, unquoted, without_extensions
from postfix_sync.system import (
    Completed,
    NotRegular,
    denied_hint,
    find_command,
    open_file,
    read_file,
    replace_file,
    run,
    unwritable,
)

PARAMETERS = (
    "alias_database",
    "alias_maps",
    "canonical_maps",
    "compatibility_level",
    "default_database_type",
    "inet_protocols",
    "lmtp_connect_timeout",
    "lmtp_host_lookup",
    "local_recipient_maps",
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
)

TURNOVER_TIMEOUT = 30.0
"""Seconds; trivial-rewrite(8) looks every 10 s whether a table changed, and ends if so."""

TURNOVER_POLL = 0.05

SLOWEST = 100_000
"""Bytes that postmap(1) gets through in a second at least, on a slow disk and a busy host: 68 MB
take it 5 s on two idle cores."""

AT_ONCE = 4
"""Processes of postqueue(1) at the same time: more of them don't get through more messages."""


@dataclass(frozen=True)
class Postfix:
    """One Postfix instance: its configuration directory, and what postconf(1) says of it."""

    config_directory: Path
    parameters: Mapping[str, str]
    """main.cf's values as they take effect, $names expanded."""
    unexpanded: Mapping[str, str]
    """The same as they are written."""
    map_types: frozenset[str]
    lmtp_chrooted: bool
    master_cf: str = ""
    """The lines of master.cf(5) as postconf(1) prints them; none where there is no such file."""
    version: str = ""
    families: Families = BOTH_FAMILIES
    """The versions of IP that lmtp(8) may use: main.cf's inet_protocols, or that of master.cf."""
    habitual: frozenset[str] = frozenset()
    """What postmap(1) says whatever it is asked: warnings about main.cf, not about a map."""

    @property
    def queue_directory(self) -> Path:
        """Where the queue is, and the root of what runs chrooted."""
        return Path(self.parameters["queue_directory"])

    @property
    def several_next_hops(self) -> bool:
        """Whether a transport(5) entry may name several, tried in order: Postfix 3.5 and later."""
        return self.at_least(3, 5)

    def at_least(self, major: int, minor: int) -> bool:
        """Whether this is that version of Postfix, or a later one."""
        found = re.match(r"(\d+)\.(\d+)", self.version)
        return found is not None and (int(found[1]), int(found[2])) >= (major, minor)

    async def values(self, *names: str) -> dict[str, str]:
        """Parameters of main.cf as they take effect, $names expanded. Raises ConfigError."""
        return _settings(await _postconf(self.config_directory, "-x", *names))

    async def written_as(self, name: str) -> str:
        """A parameter as it is written, $names and all. Raises ConfigError."""
        return _settings(await _postconf(self.config_directory, name))[name]

    async def services(self) -> tuple["Service", ...]:
        """The services of master.cf, none where there is no such file. Raises ConfigError."""
        if not self.master_cf:
            return ()
        overrides = _settings(await _postconf(self.config_directory, "-P", "-x"))
        level = self.parameters["compatibility_level"]
        return tuple(
            _service(line, overrides, level) for line in self.master_cf.splitlines() if line
        )

    async def warnings(self) -> list[str]:
        """What postconf(1) finds odd about main.cf and master.cf."""
        return await self._warnings("-n")

    async def type_warnings(self) -> list[str]:
        """What postconf(1) says of map types that it can't load."""
        return await self._warnings("-m")

    async def _warnings(self, option: str) -> list[str]:
        done = await run(self._command("postconf", option))
        told = [line.partition("warning: ")[2] for line in done.stderr.splitlines()]
        return [line for line in told if line]

    async def expanded(self, values: Mapping[str, str]) -> dict[str, str]:
        """What these parameters would come to with these values. Raises ConfigError."""
        given = [one for name, value in values.items() for one in ("-o", f"{name}={value}")]
        return _settings(await _postconf(self.config_directory, "-x", *given, *values))

    async def written(self) -> dict[str, str]:
        """The parameters that main.cf has, $names expanded. Raises ConfigError.

        Of the operator's own, those are left out that are only parts of others' values: `hash:/etc`
        in what is used as `${indexed}transport` is no table. A restriction class is none of them.
        """
        found = _settings(await _postconf(self.config_directory, "-x", "-n", "-C", "builtin"))
        if classes := items(found.get("smtpd_restriction_classes", "")):
            found |= _settings(await _postconf(self.config_directory, "-x", *classes))
        return found

    def _command(self, name: str, *arguments: str) -> list[str]:
        return [find_command(name), "-c", str(self.config_directory), *arguments]

    async def build(self, map_type: str, text: Path, size: int, lock: int) -> None:
        """Compiles a text of `size` bytes into the index beside it.

        The running postmap keeps `lock` held.

        Raises ApplyError on any word of postmap(1): it exits 0 on lines it leaves out.
        """
        done = await run(
            self._command("postmap", f"{map_type}:{text}"),
            keep_open=[lock],
            timeout=_long_enough(size),
        )
        if done.status or self._complaints(done):
            raise self._failed(f"postmap {map_type}:{text}", done)

    async def query(self, map_type: str, text: Path, keys: Sequence[str]) -> Table:
        """What the index beside `text` holds for `keys`. Raises ApplyError where it can't say."""
        table = f"{map_type}:{text}"
        done = await self._query(table, keys, timeout=_long_enough(sum(map(len, keys))))
        # That an index is older than its text is no reason not to look into it.
        older = f"is older than source file {text}"
        if any(not line.endswith(older) for line in self._complaints(done)):
            raise self._failed(f"postmap -q - {table}", done)
        return _pairs(done)

    async def look_up(self, table: str, keys: Iterable[str], *, timeout: float) -> Table:
        """What any table that main.cf may name holds for `keys`.

        Raises ApplyError where that can't be told, or takes longer than `timeout` seconds.
        """
        done = await self._query(table, keys, timeout=timeout)
        if any(": fatal: " in line or ": error: " in line for line in self._complaints(done)):
            raise self._failed(f"postmap -q - {table}", done)
        return _pairs(done)

    async def _query(self, table: str, keys: Iterable[str], *, timeout: float) -> Completed:
        asked = "".join(f"{key}\n" for key in keys).encode()
        # Postfix's daemons live in the queue directory: the path of a socket may begin there.
        done = await run(
            self._command("postmap", "-q", "-", table),
            stdin=asked,
            timeout=timeout,
            directory=self.queue_directory if self.queue_directory.is_dir() else None,
        )
        # Status 1 without a word means that none of the keys was found.
        if done.status not in (0, 1):
            raise self._failed(f"postmap -q - {table}", done)
        return done

    def _complaints(self, done: Completed) -> list[str]:
        return [line for line in done.stderr.splitlines() if line and line not in self.habitual]

    def _failed(self, command: str, done: Completed) -> ApplyError:
        said = "; ".join(self._complaints(done)) or f"exit status {done.status}"
        return ApplyError(f"{command}: {said}")

    @property
    def master(self) -> int | None:
        """The process id of this instance's master(8), None where Postfix is stopped.

        Raises NotPermitted where that can't be known: it decides whether a reload is due.
        `postfix status` would know it too, but takes a second to say no, and logs a line each time.
        """
        path = self.queue_directory / "pid/master.pid"
        try:
            pid = int(read_file(path))
            # Nothing, where it has ended, and nobody has asked yet how.
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            running = words[0].rpartition(b"/")[2] == b"master"
        except PermissionError as error:
            raise NotPermitted(
                f"{path}: {why(error)}: it can't be told whether Postfix runs",
                denied_hint(path, error),
            ) from None
        except (OSError, ValueError):
            return None
        return pid if running else None

    async def reload(self) -> None:
        """Makes every Postfix process start anew with the present tables. Raises ApplyError."""
        done = await run(self._command("postfix", "reload"))
        if done.status:
            raise ApplyError(
                f"postfix reload: {done.complaint}",
                f"see what it says: postfix -c {self.config_directory} check",
            )

    async def start(self) -> None:
        """Starts a Postfix that is stopped. Raises ApplyError where it does not come up."""
        done = await run(self._command("postfix", "start"))
        if done.status:
            raise ApplyError(f"postfix start: {done.complaint}")

    async def check(self) -> str:
        """What postfix(1) has against this configuration, empty if Postfix could start with it.

        Without a terminal, most of it goes to Postfix's log, and the exit status is all there is.
        Debian 13 has it copy /etc/hosts into the chroot (configure-instance.sh), which may lack the
        names of the hosts file that is kept there: what was there is put back.
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

    def rewriters(self) -> frozenset[int]:
        """The process ids of this instance's trivial-rewrite(8), none where Postfix is stopped."""
        master = str(self.master)
        found = set()
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                pid, _, rest = stat.read_text("utf-8", "replace").partition(" (")
            except OSError:
                continue  # it ended meanwhile
            name, _, fields = rest.rpartition(") ")
            if name == "trivial-rewrite" and fields.split()[1] == master:
                found.add(int(pid))
        return frozenset(found)

    async def turned_over(self, before: frozenset[int]) -> None:
        """Waits until none of `before`, trivial-rewrite(8) processes, runs any more.

        Raises ApplyError where one still does after TURNOVER_TIMEOUT seconds.
        """
        give_up = time.monotonic() + TURNOVER_TIMEOUT
        while left := before & self.rewriters():
            if time.monotonic() > give_up:
                raise ApplyError(
                    f"trivial-rewrite[{min(left)}]: still works with the routes from before the"
                    f" change after {TURNOVER_TIMEOUT:g} s; the new lists are not accepted yet",
                    f"postfix -c {self.config_directory} reload",
                )
            await asyncio.sleep(TURNOVER_POLL)

    async def queue(self) -> list[Queued]:
        """The messages in the queue. Raises ApplyError where postqueue(1) can't say."""
        if not (self.queue_directory / "active").is_dir():
            return []  # this Postfix was never started
        done = await run(self._command("postqueue", "-j"))
        if done.status:
            raise ApplyError(f"postqueue -j: {done.complaint}")
        try:
            return await asyncio.to_thread(_messages, done.stdout)
        except (ValueError, KeyError, TypeError) as error:
            raise ApplyError(f"postqueue -j: can't be read: {error}") from None

    async def deliver_now(self, queue_ids: Sequence[str]) -> None:
        """Has deferred messages tried now; those that are on hold, or gone, are passed over.

        One process each: postqueue(1) takes no more than one. With the first, qmgr(8) also forgets
        which destinations are dead, so that new mail for them is tried again as well.

        Raises ApplyError where postqueue(1) can't have it done.
        """
        for start in range(0, len(queue_ids), AT_ONCE):
            done = await asyncio.gather(
                *(
                    run(self._command("postqueue", "-i", one))
                    for one in queue_ids[start : start + AT_ONCE]
                )
            )
            for one in done:
                if one.status:
                    raise ApplyError(f"postqueue -i: {one.complaint}")

    async def queued_recipients(self, before: float = math.inf) -> frozenset[str]:
        """The folded addresses that queued mail waits for, extensions cut off as well.

        Mail that has arrived by `before` counts, in seconds since the epoch.

        Raises ApplyError where postqueue(1) can't say.
        """
        delimiters = self.parameters["recipient_delimiter"]
        fold = self.fold
        return frozenset(
            key
            for message in await self.queue()
            if message.arrival_time <= before
            for address, _ in message.recipients
            for key in without_extensions(fold(address), delimiters)
        )

    @property
    def fold(self) -> tables.Fold:
        """How this Postfix folds keys and addresses."""
        return _fold(self.parameters)


@dataclass(frozen=True)
class Service:
    """A line of master.cf(5)."""

    name: str
    kind: str
    """inet, unix, unix-dgram, fifo or pass."""
    unprivileged: bool
    chrooted: bool
    command: str
    """The program, without its arguments."""
    overrides: Mapping[str, str]
    """The parameters of main.cf that it has other values of, by -o, $names expanded."""


def _service(line: str, overrides: Mapping[str, str], compatibility_level: str) -> Service:
    """A service as `postconf -M` prints it, with what `postconf -P` prints of all."""
    name, kind, _private, unprivileged, chroot, _wakeup, _limit, command, *_ = line.split()
    own = f"{name}/{kind}/"
    return Service(
        name=name,
        kind=kind,
        unprivileged=unprivileged != "n",
        chrooted=chroot in _chrooted(compatibility_level),
        command=command,
        overrides={
            key.removeprefix(own): value for key, value in overrides.items() if key.startswith(own)
        },
    )


def _messages(printed: str) -> list[Queued]:
    # Addresses may hold U+2028 and its like, at which splitlines() would split.
    return [_queued(json.loads(line)) for line in printed.split("\n") if line]


def _long_enough(size: int) -> float:
    """Seconds after which a postmap(1) that is given so many bytes hangs."""
    return 60 + size / SLOWEST


def _pairs(done: Completed) -> Table:
    """What postmap -q - prints."""
    pairs = (line.partition("\t") for line in done.stdout.split("\n") if line)
    return {key: value for key, _, value in pairs}


def _queued(found: dict[str, Any]) -> Queued:
    """One line of postqueue(1), version 3.1 and later."""
    return Queued(
        queue_id=found["queue_id"],
        queue_name=found["queue_name"],
        arrival_time=float(found["arrival_time"]),
        recipients=tuple(
            (unquoted(one["address"]), one.get("delay_reason", "")) for one in found["recipients"]
        ),
    )


def list_file(path: str) -> str:
    """A file that a list in main.cf names; what can't be read names nothing, as for Postfix."""
    try:
        return read_file(Path(path)).decode("utf-8", "replace")
    except OSError:
        return ""


async def inspect(config_directory: Path) -> Postfix:
    """Reads what a pass needs to know of an instance. Raises ConfigError where there is none."""
    parameters = _settings(await _postconf(config_directory, "-x", *PARAMETERS))
    unexpanded = _settings(await _postconf(config_directory, *PARAMETERS))
    # What it is, not what main.cf makes it say of itself.
    version = await _postconf(config_directory, "-d", "-h", "mail_version")
    services = ""  # an instance that is not set up yet may have no master.cf
    if (config_directory / "master.cf").exists():
        services = await _postconf(config_directory, "-M")
    types = await _postconf(config_directory, "-m")
    nothing = await run(
        [find_command("postmap"), "-c", str(config_directory), "-q", "x", "static:x"]
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
        lmtp_chrooted=_lmtp_is_chrooted(services, parameters["compatibility_level"]),
        master_cf=services,
        version=version.strip(),
        families=await _families(config_directory, parameters["inet_protocols"], services),
        habitual=frozenset(nothing.stderr.splitlines()),
    )


LMTP = ("lmtp", "unix")
"""Name and type of the service in master.cf that routes name."""


async def families_of(config_directory: Path) -> Families:
    """The versions of IP that lmtp(8) may use. Raises ConfigError where there is no Postfix."""
    value = _settings(await _postconf(config_directory, "-x", "inet_protocols"))["inet_protocols"]
    services = ""
    if (config_directory / "master.cf").exists():
        services = await _postconf(config_directory, "-M", "/".join(LMTP))
    return await _families(config_directory, value, services)


async def _families(config_directory: Path, value: str, services: str) -> Families:
    """The versions of IP that `value` stands for, or what the lmtp service has in its place."""
    name = "inet_protocols"
    if any(name in line and tuple(line.split()[:2]) == LMTP for line in services.splitlines()):
        overrides = _settings(await _postconf(config_directory, "-P", "-x"))
        value = overrides.get("/".join((*LMTP, name)), value)
    named = set(items(value.lower()))
    found = {version for version in (4, 6) if named & {"all", f"ipv{version}"}}
    if 4 in found and not has_ipv6():
        found.discard(6)
    return frozenset(found)


async def set_in(config_directory: Path) -> dict[str, str]:
    """All that main.cf sets, as it is written. Raises ConfigError where there is none."""
    done = await _run_postconf(config_directory, "-n")
    # A parameter of the operator's own that nothing refers to is no setting, but a warning.
    marked = (line.partition("unused parameter: ")[2] for line in done.stderr.splitlines())
    found = _settings("\n".join(marked)) | _settings(done.stdout)
    found.pop("config_directory", None)  # it names its own place
    return found


async def edit(config_directory: Path, changes: Mapping[str, str | None]) -> None:
    """Gives parameters of main.cf a value, or (None) takes their lines out. Raises ApplyError.

    postconf(1) replaces the file at once, as a new one of root's, mode 0644. A last line that does
    not end is continued by the first parameter that it adds.
    """
    given = [f"{name}={value}" for name, value in changes.items() if value is not None]
    gone = [name for name, value in changes.items() if value is None]
    for option, arguments in (("-e", given), ("-X", gone)):
        if arguments:
            command = [find_command("postconf"), "-c", str(config_directory), option, *arguments]
            done = await run(command)
            if done.status:
                raise ApplyError(f"postconf {option}: {done.complaint}")


async def fold_of(config_directory: Path) -> tables.Fold:
    """How keys are folded there. Raises ConfigError where there is no Postfix."""
    return _fold(_settings(await _postconf(config_directory, "-x", "smtputf8_enable")))


def _fold(parameters: Mapping[str, str]) -> tables.Fold:
    """How postmap(1) and the lookups of a Postfix fold keys (SMTPUTF8_README)."""
    if parameters.get("smtputf8_enable") == "yes":
        return tables.fold_unicode
    return tables.fold_ascii


def _settings(printed: str) -> dict[str, str]:
    """What postconf(1) prints, one `name = value` a line."""
    lines = (line.partition("=") for line in printed.splitlines())
    return {name.strip(): value.strip() for name, equals, value in lines if equals}


async def _postconf(config_directory: Path, *arguments: str) -> str:
    return (await _run_postconf(config_directory, *arguments)).stdout


async def _run_postconf(config_directory: Path, *arguments: str) -> Completed:
    argv = [find_command("postconf"), "-c", str(config_directory), *arguments]
    _check_regular(config_directory)
    try:
        done = await run(argv)
    except SyncError as error:
        raise ConfigError(error.message, error.hint) from None
    if done.status:
        said = done.complaint.partition(": fatal: ")[2] or done.complaint
        raise ConfigError(
            f"{config_directory}: no Postfix configuration can be read here: {said}",
            _unreadable(config_directory),
        )
    return done


def _check_regular(config_directory: Path) -> None:
    """Raises ConfigError where postconf(1) would wait for somebody to write, as into a FIFO."""
    for path in (config_directory / "main.cf", config_directory / "master.cf"):
        try:
            open_file(path).close()
        except NotRegular as error:
            raise ConfigError(f"{path}: {error}", "Postfix can't read it either") from None
        except OSError:
            pass  # postconf(1) says what is wrong with it


def _unreadable(config_directory: Path) -> str:
    """What helps where postconf(1) has failed."""
    main_cf = config_directory / "main.cf"
    try:
        with open_file(main_cf):
            return f"mend that; postconf -c {config_directory} -n is silent when it is right"
    except PermissionError as error:
        return denied_hint(main_cf, error)
    except OSError:
        return "set postfix.config_directory to the directory that has main.cf (see: postmulti -l)"


def _lmtp_is_chrooted(services: str, compatibility_level: str) -> bool:
    """Whether the lmtp service is chrooted; master(5): name type private unprivileged chroot."""
    chrooted = _chrooted(compatibility_level)
    fields = (line.split() for line in services.splitlines())
    return any(field[:2] == ["lmtp", "unix"] and field[4] in chrooted for field in fields)


def _chrooted(compatibility_level: str) -> set[str]:
    """What stands in master(5)'s chroot field of a service that is chrooted.

    "-" stands for "n", below compatibility_level 1 for "y" (COMPATIBILITY_README).
    """
    return {"y", "-"} if compatibility_level in {"", "0"} else {"y"}
