"""Carries out a plan, step by step. Whatever fails, or kills it, leaves a state to live with."""

import asyncio
import time
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import NamedTuple

from postfix_sync.errors import ApplyError, SyncError
from postfix_sync.hosts_file.files import HostsFiles
from postfix_sync.model import Destination, Installed, Table
from postfix_sync.postfix.instance import Postfix
from postfix_sync.postfix.map_directory import MapDirectory
from postfix_sync.reconcile.plan import EnterHosts, MakeVisible, Owe, Plan, Publish

FORGOTTEN = 30.0
"""Seconds in which processes forget all but what smtpd(8) and the active queue hold: their tables
after 10, their last answers after 30 (visibility.py)."""

RELOADS_AT_MOST = 3
"""How often Postfix is reloaded so that it closes connections to an address that a host had."""

CLOSED_WITHIN = 2.5
"""Seconds after which they are closed if no mail uses them: more than scache(8) keeps one that is
idle (connection_cache_ttl_limit, 2 s)."""

CONNECTION_POLL = 0.1


@dataclass(frozen=True)
class Outcome:
    """What became of a plan."""

    published: frozenset[str] = frozenset()
    """The maps that hold what they were to hold after it."""
    reloads: int = 0
    """How often Postfix was reloaded."""
    lines: tuple[str, ...] = ()
    """What was done, for the log, but for the entries of maps."""
    error: SyncError | None = None
    """Why it came to an end before its last step, or what it could not bring about."""
    without_hosts: SyncError | None = None
    """Why the hosts file could not be written; then no map was published."""


async def carry_out(
    plan: Plan, installed: Installed, directory: MapDirectory, hosts: HostsFiles, lock: int
) -> Outcome:
    """Make all steps in order, up to the first that fails. `lock` is the lock's descriptor."""
    tables: dict[str, Table] = {}
    entered: list[str] = []
    made: list[_Visible] = []
    owing = Owe(installed.unseen, installed.left) if installed.reload_owed else None
    error: SyncError | None = None
    try:
        with directory.staging():
            for step in plan.steps:
                match step:
                    case EnterHosts(names):
                        try:
                            hosts.write(names)
                        except SyncError as failure:
                            _owe_as_before(directory, hosts, installed)
                            return Outcome(without_hosts=failure)
                        entered.append(f"{hosts.path}: {_entered(names, installed)}")
                        _owe_from_now(directory, owing)
                    case Owe(unseen, left):
                        directory.owe_reload(unseen, left)
                        owing = step
                    case Publish(name, table, fresh):
                        if not await directory.publish(name, table, lock, fresh=fresh):
                            again = MakeVisible(reload=plan.may_reload, remembered=True)
                            made.append(await _make_visible(again, directory))
                        _owe_from_now(directory, owing)
                        tables[name] = table
                    case MakeVisible():
                        made.append(await _make_visible(step, directory))
                        owing = None
    except SyncError as failure:
        error = failure
    return Outcome(
        frozenset(name for name, table in tables.items() if table == plan.result[name]),
        sum(one.reloads for one in made),
        (*entered, *(one.line for one in made if one.line)),
        error or next((one.error for one in made if one.error), None),
    )


def _owe_from_now(directory: MapDirectory, owing: Owe | None) -> None:
    """Date the note of an owed reload anew, after a step that the reload is for.

    A reload by somebody else counts for what was published before it, and for nothing that came
    after; and one that was made for another step has removed the note.
    """
    if owing:
        directory.owe_reload(owing.unseen, owing.left)


def _owe_as_before(directory: MapDirectory, hosts: HostsFiles, installed: Installed) -> None:
    """Take back the note that a reload is owed, if nothing has changed that it would be for."""
    if hosts.read().block != installed.hosts:
        return  # the file has changed, and only its copy could not be written
    if installed.reload_owed:
        directory.owe_reload(installed.unseen, installed.left)
    else:
        directory.reloaded()


class _Visible(NamedTuple):
    """What came of having Postfix see a change."""

    reloads: int = 0
    line: str = ""
    """For the log."""
    error: SyncError | None = None
    """Why some processes may not see it."""


async def _make_visible(step: MakeVisible, directory: MapDirectory) -> _Visible:
    """See to it that no process works with what was there before."""
    postfix = directory.postfix
    elsewhere = postfix.runs_elsewhere
    if not elsewhere and postfix.master is None:
        directory.reloaded()
        line = "postfix: not running, so not reloaded; it will start with these maps"
        return _Visible(line=line)
    if step.reload and not elsewhere:
        reloads, open_ = await _reload(postfix, step.left)
        directory.reloaded()
        places = ", ".join(sorted({one.endpoint for one in step.left}))
        still = f"; connections to {places} are still open: {len(open_)}" if open_ else ""
        return _Visible(reloads=reloads, line=f"postfix: reloaded{still}")
    await asyncio.sleep(FORGOTTEN)
    directory.reloaded()
    if not step.remembered:
        return _Visible()
    if elsewhere:
        error = ApplyError(
            f"{postfix.queue_directory}: Postfix runs where its processes can't be seen from here,"
            " as in another PID namespace, so it was not reloaded; until it is, some mail may go by"
            " the routes from before",
            "run postfix-sync where Postfix runs, or have it reloaded there: postfix reload",
        )
    else:
        error = ApplyError(
            f"{postfix.config_directory}: postfix.reload is never, and smtpd(8) and qmgr(8)"
            " remember the answers from before; some mail may still be refused, or go there",
            f"postfix -c {postfix.config_directory} reload",
        )
    return _Visible(error=error)


async def _reload(postfix: Postfix, left: AbstractSet[Destination]) -> tuple[int, AbstractSet[str]]:
    """Reload Postfix, and again if lmtp(8) goes on using connections to addresses that were left.

    A delivery that was under way hands its connection on, and nothing but another reload, or two
    idle seconds, makes Postfix close it. Returns how often it was reloaded, and the connections
    that are left even so: of deliveries that hang, which are no use to anybody else.
    """
    await postfix.reload()
    old = await _still_open(postfix.connections(left), postfix, left)
    reloads = 1
    while old and reloads < RELOADS_AT_MOST:
        await postfix.reload()
        reloads += 1
        old = await _still_open(old, postfix, left)
    return reloads, old


async def _still_open(
    connections: AbstractSet[str], postfix: Postfix, left: AbstractSet[Destination]
) -> AbstractSet[str]:
    """Wait until some connections are closed; return those that are not after CLOSED_WITHIN."""
    give_up = time.monotonic() + CLOSED_WITHIN
    while connections and time.monotonic() < give_up:
        await asyncio.sleep(CONNECTION_POLL)
        connections &= postfix.connections(left)
    return connections


def _entered(names: Mapping[str, str], installed: Installed) -> str:
    """What has changed in our block, in words."""
    new = {name: ip for name, ip in names.items() if installed.hosts.get(name) != ip}
    known = ", ".join(f"{name} is {address}" for name, address in new.items())
    return known or "the copy in the chroot was renewed"
