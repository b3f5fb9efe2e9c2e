"""Remove the routes and host names that are no longer needed (retirement.py).

This is not part of a sync: it lists Postfix's queue, which takes seconds if much mail is queued,
and no new list waits for that. The lock is held only while something is removed.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING

from postfix_sync.errors import ApplyError, why
from postfix_sync.hosts_file.files import HostsFiles
from postfix_sync.model.installed import Condition, Installed, KnownText
from postfix_sync.model.list_addresses import addresses_of
from postfix_sync.model.map_names import ROUTES
from postfix_sync.model.table import Table
from postfix_sync.postfix.index_change import Publish
from postfix_sync.postfix.inspection import Inspector
from postfix_sync.postfix.instance import Postfix
from postfix_sync.postfix.next_hop import host_names
from postfix_sync.postfix.publish import publish, staging_of, write_texts
from postfix_sync.postfix.queue import Queued
from postfix_sync.reconcile.locked import Locked, locked
from postfix_sync.reconcile.retirement import deferred_for, narrowed
from postfix_sync.store.known_texts import Known
from postfix_sync.store.retirement_record import NAME_KEPT, Retiring
from postfix_sync.store.state_directory import retirement_record_of
from postfix_sync.system.threads import run_in_daemon_thread
from postfix_sync.text import counted

if TYPE_CHECKING:
    from postfix_sync.config.schema import Config


async def retire(config: "Config", inspector: Inspector | None = None) -> list[str]:
    """Remove what is due, and flush deferred mail for lists that moved; return the lines to log.

    `inspector` has inspected Postfix before.

    Raises:
        SyncError: the queue can't be listed, a file can't be written, or a sync has the lock.
    """
    now = time.time()
    retiring = retirement_record_of(config).read()
    names = retiring.due_names(now)
    if not (retiring.due_routes(now, 0) or names or retiring.moved):
        return []
    inspector = inspector or Inspector(config.postfix.config_directory)
    instance = await inspector.inspect()
    oldest = NAME_KEPT if instance.processes.runs_elsewhere else instance.processes.oldest("smtpd")
    routes = retiring.due_routes(now, oldest)
    queue = await instance.queue.messages() if routes or retiring.moved else []
    due = {name: retiring.routes[name] for name in routes}
    try:
        async with locked(config, inspector) as place:
            known = await run_in_daemon_thread(place.known_texts.read, ())
            installed = await place.directory.read(known.texts)
            if not _is_settled(installed):
                return []  # a sync is not complete, and another one follows
            queued = instance.queue.recipients_of(queue)
            lines, texts = await _take_out(place, installed, due, queued)
            new = Known(installed.after(texts).texts, known.checked_at)
            await asyncio.to_thread(place.known_texts.update, known, new, ())
    except OSError as error:
        # What no step foresaw, such as a file that another process removes while it is read.
        raise ApplyError(f"{error.filename or 'retiring'}: {why(error)}") from None
    return [*lines, *await _hurry(instance, queue, retiring)]


def _is_settled(installed: Installed) -> bool:
    """Whether Postfix works with the maps as they are on the disk."""
    sound = all(one.condition is Condition.SOUND for one in installed.maps.values())
    return sound and not (installed.interrupted or installed.reload_owed)


async def _take_out(
    place: Locked,
    installed: Installed,
    due: Mapping[str, float],
    queued: AbstractSet[str],
) -> tuple[list[str], Mapping[str, KnownText]]:
    """Remove the routes that are due and that no queued mail needs, and names that are due.

    `due` has the lists with the time that was noted; a list that was added and removed again
    meanwhile has another. Returns the lines to log, and the texts that were published.
    """
    maps = installed.readable
    if maps is None:
        return [], {}
    now = time.time()
    retiring = place.retirement.read()
    routes = {name for name, at in due.items() if retiring.routes.get(name) == at}
    names = retiring.due_names(now)
    table = await run_in_daemon_thread(narrowed, maps, routes, queued)
    lines, texts = await _narrow_routes(place, installed, table)
    lines += _narrow_hosts(place.hosts, names - host_names(table))
    left = {name for name in routes if any(key in table for key in addresses_of(name))}
    place.retirement.write(retiring.without(routes - left, names, now))
    return lines, texts


async def _hurry(instance: Postfix, queue: Sequence[Queued], retiring: Retiring) -> list[str]:
    """Flush deferred mail for lists that moved."""
    delimiters = instance.parameters["recipient_delimiter"]
    ids = deferred_for(queue, retiring.moved, instance.fold, delimiters)
    if not ids:
        return []
    async for _ in instance.queue.deliver_steadily(ids):
        pass
    return [f"{counted(len(ids), 'message')} for lists that moved: being delivered"]


async def _narrow_routes(
    place: Locked, installed: Installed, table: Table[str]
) -> tuple[list[str], Mapping[str, KnownText]]:
    """Publish the routes without those that are due."""
    present = installed.table(ROUTES)
    if table == present:
        return [], {}
    generation = place.generations.installed(place.directory.texts())
    with staging_of(place.directory):
        step = Publish(ROUTES, table).over(present, text=installed.maps[ROUTES].version)
        made = await publish(place.directory, step, place.lock)
        texts: Mapping[str, KnownText] = {ROUTES: made.text} if made.text else {}
        if not made.text:
            texts, error = await write_texts(place.directory, {ROUTES: [step]})
            if error:
                raise error
    if generation is not None:
        place.generations.note(generation, place.directory.texts())
    gone = counted(len(present) - len(table), "route")
    line = f"{ROUTES}: -{gone} of removed lists, which nothing in the queue needs"
    return [line], texts


def _narrow_hosts(hosts: HostsFiles, names: AbstractSet[str]) -> list[str]:
    """Remove names from our block of the hosts file."""
    block = hosts.read().block
    gone = sorted(block.keys() & names)
    if not gone:
        return []
    hosts.write({name: ip for name, ip in block.items() if name not in names})
    return [f"{hosts.path}: -{', '.join(gone)}: no route leads there any more"]
