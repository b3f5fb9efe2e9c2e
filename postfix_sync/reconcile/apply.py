"""Carry out a plan, step by step. A failure or a kill leaves a state that Postfix can work with."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from postfix_sync.errors import ApplyError, SyncError
from postfix_sync.model.destination import Destination
from postfix_sync.model.installed import Installed, KnownText
from postfix_sync.postfix.index_change import Publish
from postfix_sync.postfix.instance import Postfix
from postfix_sync.postfix.map_directory import MapDirectory
from postfix_sync.postfix.publish import publish, staging_of, write_texts
from postfix_sync.reconcile.plan import EnterHosts, MakeVisible, Owe, Plan, Step

if TYPE_CHECKING:
    from postfix_sync.reconcile.locked import Locked

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

    texts: Mapping[str, KnownText] = field(default_factory=dict)
    """The texts that were published, by map."""
    published: frozenset[str] = frozenset()
    """The maps that hold what they were to hold after it."""
    reloads: int = 0
    """How often Postfix was reloaded."""
    lines: tuple[str, ...] = ()
    """What was done, for the log, except the entries of maps."""
    error: SyncError | None = None
    """Why it ended before its last step, or what it could not achieve."""
    without_hosts: SyncError | None = None
    """Why the hosts file could not be written; then no map was published."""


async def carry_out(plan: Plan, installed: Installed, place: "Locked") -> Outcome:
    """Make all steps in order, up to the first that fails."""
    owed = Owe(installed.unseen, installed.left) if installed.reload_owed else None
    taken: list[_Taken] = []
    texts: Mapping[str, KnownText] = {}
    error: SyncError | None = None
    try:
        with staging_of(place.directory):
            taken = await _take_all(plan, _Taken(owed), installed, place)
            texts, unwritten = await _written(taken, place.directory)
            error = taken[-1].without_hosts or taken[-1].error or unwritten
            if error:
                raise error  # so that the marks of maps in doubt are kept
    except SyncError as failure:
        error = error or failure
    if taken and taken[-1].without_hosts:
        return Outcome(without_hosts=taken[-1].without_hosts)
    return Outcome(
        texts,
        frozenset(name for name, text in texts.items() if text.table == plan.result[name]),
        sum(one.seen.reloads for one in taken),
        tuple(line for one in taken for line in (one.line, one.seen.line) if line),
        error or next((one.seen.error for one in taken if one.seen.error), None),
    )


async def _take_all(
    plan: Plan, first: "_Taken", installed: Installed, place: "Locked"
) -> list["_Taken"]:
    """Make the steps after `first`, up to one that fails; return what came of them."""
    taken = [first]
    for step in plan.steps:
        owed = taken[-1].owed
        try:
            taken.append(await _take(step, owed, plan, installed, place))
        except SyncError as error:
            taken.append(_Taken(owed, failed=step, error=error))
        if taken[-1].error or taken[-1].without_hosts:
            break
    return taken


async def _written(
    taken: Sequence["_Taken"], directory: MapDirectory
) -> tuple[Mapping[str, KnownText], SyncError | None]:
    """Write the texts of the maps whose indexes were changed.

    A map whose last step failed is in doubt: its text is left as it is, and so is its mark. Returns
    all new texts by map, and the first error.
    """
    texts: dict[str, KnownText] = {}
    changed: dict[str, list[Publish]] = {}
    for one in taken:
        if one.published and one.text:
            texts[one.published.name] = one.text
            changed.pop(one.published.name, None)
        elif one.published:
            changed.setdefault(one.published.name, []).append(one.published)
        if isinstance(one.failed, Publish):
            changed.pop(one.failed.name, None)
    written, error = await write_texts(directory, changed)
    return {**texts, **written}, error


class _Visible(NamedTuple):
    """What came of making Postfix see a change."""

    reloads: int = 0
    line: str = ""
    """For the log."""
    error: SyncError | None = None
    """Why some processes may not see it."""


class _Taken(NamedTuple):
    """What came of one step."""

    owed: Owe | None
    """The note of an owed reload, if one is on the disk now."""
    published: Publish | None = None
    text: KnownText | None = None
    """The text that was published; None if it is not written yet."""
    failed: Step | None = None
    """The step, if it could not be made."""
    seen: _Visible = _Visible()
    line: str = ""
    """For the log."""
    error: SyncError | None = None
    """Why it could not be made, or the note not be renewed after it."""
    without_hosts: SyncError | None = None


async def _take(
    step: Step, owed: Owe | None, plan: Plan, installed: Installed, place: "Locked"
) -> _Taken:
    """Make one step. Raises SyncError if that fails, but for a hosts file."""
    directory = place.directory
    match step:
        case EnterHosts(names):
            try:
                place.hosts.write(names)
            except SyncError as failure:
                _owe_as_before(place, installed)
                return _Taken(owed, without_hosts=failure)
            line = f"{place.hosts.path}: {_entered(names, installed)}"
            return _Taken(owed, line=line, error=_owe_from_now(directory, owed))
        case Owe(unseen, left):
            directory.reload_note.write(unseen, left)
            return _Taken(step)
        case Publish():
            seen = _Visible()
            made = await publish(directory, step, place.lock)
            if not made.is_seen:
                again = MakeVisible(reload=plan.may_reload, remembered=True)
                seen = await _make_visible(again, directory)
            error = _owe_from_now(directory, owed)
            return _Taken(owed, published=step, text=made.text, seen=seen, error=error)
        case MakeVisible():
            return _Taken(None, seen=await _make_visible(step, directory))


def _owe_from_now(directory: MapDirectory, owed: Owe | None) -> SyncError | None:
    """Renew the date of the note of an owed reload, after a step that the reload is for.

    A reload by another process counts for what was published before it, and for nothing that came
    after; and one that was made for another step has removed the note.
    """
    try:
        if owed:
            directory.reload_note.write(owed.unseen, owed.left)
    except SyncError as error:
        return error
    return None


def _owe_as_before(place: "Locked", installed: Installed) -> None:
    """Take back the note of an owed reload, if nothing has changed that it would be for."""
    if place.hosts.read().block != installed.hosts:
        return  # the file has changed, and only its copy could not be written
    if installed.reload_owed:
        place.directory.reload_note.write(installed.unseen, installed.left)
    else:
        place.directory.reload_note.remove()


async def _make_visible(step: MakeVisible, directory: MapDirectory) -> _Visible:
    """Make sure that no process works with the previous maps."""
    postfix = directory.postfix
    elsewhere = postfix.processes.runs_elsewhere
    if not elsewhere and postfix.processes.master is None:
        directory.reload_note.remove()
        line = "postfix: not running, so not reloaded; it will start with these maps"
        return _Visible(line=line)
    if step.reload and not elsewhere:
        reloads, open_ = await _reload(postfix, step.left)
        directory.reload_note.remove()
        places = ", ".join(sorted({one.endpoint for one in step.left}))
        still = f"; connections to {places} are still open: {len(open_)}" if open_ else ""
        return _Visible(reloads=reloads, line=f"postfix: reloaded{still}")
    await asyncio.sleep(FORGOTTEN)
    directory.reload_note.remove()
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
    # A connection that is opened later has a reason to be.
    old: AbstractSet[str] = postfix.processes.connections(left)
    await postfix.processes.reload()
    old = await _still_open(old, postfix, left)
    reloads = 1
    while old and reloads < RELOADS_AT_MOST:
        await postfix.processes.reload()
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
        connections &= postfix.processes.connections(left)
    return connections


def _entered(names: Mapping[str, str], installed: Installed) -> str:
    """Describe what has changed in our block."""
    new = {name: ip for name, ip in names.items() if installed.hosts.get(name) != ip}
    known = ", ".join(f"{name} is {address}" for name, address in new.items())
    return known or "the copy in the chroot was renewed"
