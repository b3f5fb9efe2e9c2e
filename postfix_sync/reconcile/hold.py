"""Stage 2: the hold. A rollback installs a generation and holds it until `resume` releases it."""

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from postfix_sync.containers.relocate import by_address
from postfix_sync.errors import ApplyError, SyncError
from postfix_sync.model.installed import Desired, Installed
from postfix_sync.model.maps import Maps
from postfix_sync.model.notice import Notice
from postfix_sync.postfix.next_hop import host_names
from postfix_sync.reconcile.clusters import reordered
from postfix_sync.reconcile.keep import keep_present
from postfix_sync.store.hold import Hold
from postfix_sync.system.threads import run_in_daemon_thread

if TYPE_CHECKING:
    from postfix_sync.reconcile.decide import Decision
    from postfix_sync.reconcile.inputs import Inputs
    from postfix_sync.reconcile.locked import Locked


@dataclass(frozen=True)
class Order:
    """What is held after an operator's request, and which installed entries are to be kept."""

    hold: Hold | None
    installed: Installed
    """What is installed, without what only a released rollback had put there."""
    notices: tuple[Notice, ...] = ()
    """What could not be kept before a rollback."""


async def obey(place: "Locked", inputs: "Inputs") -> Order:
    """Hold a generation, or release the hold, if the operator requested that.

    The order is on the disk before the maps change: if a rollback is interrupted, the next sync
    completes it, and none undoes it. Raises SyncError; then nothing was changed.
    """
    generations, request, installed = place.generations, inputs.request, inputs.installed
    hold = place.hold_file.read()
    if request.resume and hold:
        put_back = await generations.restored(hold)
        place.hold_file.remove()
        # What only the rollback had put back is removed, even if its source is away.
        return Order(None, installed.without(put_back) if put_back else installed)
    notices: tuple[Notice, ...] = ()
    if request.roll_back is not None:
        await generations.load(request.roll_back)
        if not hold:
            notices = await keep_present(place, installed, spare=request.roll_back)
            before = generations.installed(place.directory.texts())
            hold = Hold(request.roll_back, time.time(), before)
        elif hold.generation != request.roll_back:
            hold = Hold(request.roll_back, time.time(), hold.before)
        place.hold_file.write(hold)
    return Order(hold, installed, notices)


@dataclass(frozen=True)
class HeldState:
    """The desired state under a hold; `desired` is None if that can't be determined."""

    desired: Desired | None
    generation: int | None = None
    """The generation that it is; None if that can't be read, and the maps are unchanged."""
    error: SyncError | None = None


async def held_state(
    place: "Locked", hold: Hold, inputs: "Inputs", decision: "Decision"
) -> HeldState:
    """Compute the desired state from the held generation.

    The addresses of host names are not part of what is held: a name gets its current address, and
    the recorded one only if it has none. Nor is the order of a cluster's members: mail would bounce
    if the name of the last one had lost its address meanwhile.
    """
    installed = inputs.installed
    try:
        generation = await place.generations.load_held(hold)
    except SyncError as error:
        unreadable = ApplyError(
            f"{error.message}; the maps are unchanged",
            f"put another one back: {place.config.command('rollback')};"
            f" or go on: {place.config.command('resume')}",
        )
        present = installed.readable
        return HeldState(Desired(present, {}) if present else None, error=unreadable)
    known = {
        **generation.hosts,
        **_current(place),
        **decision.kept_out,
        **decision.addresses,
    }
    routes = generation.tables.routes
    found = {name: known[name] for name in host_names(routes) if known.get(name)}
    replaced = {name: ip for name, ip in found.items() if not inputs.routable(name)}
    routes = by_address(routes, replaced)
    parties = decision.merged.parties
    clusters = {party.name: party.replicas.keys() for party in parties if party.replicas}
    routes = await run_in_daemon_thread(reordered, routes, clusters, inputs.rankings)
    maps = Maps.of(replace(generation.tables, routes=routes))
    maps = maps.beside(place.directory.postfix.other_domains)
    addresses = {name: ip for name, ip in found.items() if inputs.routable(name)}
    return HeldState(Desired(maps, addresses), generation.number)


def _current(place: "Locked") -> dict[str, str]:
    """Read the names of the hosts file; those of other lines without their addresses."""
    try:
        hosts = place.hosts.read()
    except SyncError:
        return {}  # the error is reported where the file is needed
    return {**dict.fromkeys(hosts.foreign(), ""), **hosts.block}
