"""Keep what is installed as a generation, to go back to."""

from collections.abc import Awaitable, Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from postfix_sync.containers.relocate import moved
from postfix_sync.errors import SyncError
from postfix_sync.model.destination import Destination
from postfix_sync.model.installed import Condition, Installed
from postfix_sync.model.maps import Maps
from postfix_sync.model.notice import Notice
from postfix_sync.postfix.next_hop import host_names
from postfix_sync.store.generations import Packed, pack
from postfix_sync.system.tasks import shared
from postfix_sync.system.threads import run_in_daemon_thread

if TYPE_CHECKING:
    from postfix_sync.reconcile.locked import Locked


async def keep_present(
    place: "Locked",
    installed: Installed,
    replaced: Mapping[Destination, Destination] | None = None,
    spare: int | None = None,
) -> tuple[Notice, ...]:
    """Keep what is about to change, if no sync has: an older version's state, or a killed sync's.

    `spare` is the generation that is installed next, and must not be removed for this one. For
    `replaced` and the notices see `keep`.
    """
    present = installed.readable
    in_doubt = installed.interrupted or any(
        one.condition is Condition.STALE for one in installed.maps.values()
    )
    if not present or in_doubt or not place.directory.texts():
        return ()
    return await keep(place, state_of(present, replaced or {}), spare=spare)


@dataclass(frozen=True)
class _State:
    """What maps hold, for a generation."""

    tables: Packed
    names: AbstractSet[str]
    """The host names of its routes."""
    kept_out: Mapping[str, str]
    """The host names that had an address in their place, with that address."""


def state_of(
    maps: Maps, replaced: Mapping[Destination, Destination]
) -> Callable[[], Awaitable[_State]]:
    """Return a function for `keep` that describes maps when it is first called.

    A generation has host names where routes have their addresses instead (`replaced`), so that it
    is the same one after a container has moved, and leads to its current address when it is put
    back.
    """

    def described() -> _State:
        tables = maps.served()
        tables = replace(tables, routes=moved(tables.routes, replaced))
        kept_out = {hop.host: there.host for there, hop in replaced.items()}
        return _State(pack(tables), host_names(tables.routes), kept_out)

    return shared(partial(run_in_daemon_thread, described))


async def keep(
    place: "Locked",
    state: Callable[[], Awaitable[_State]],
    *,
    held: int | None = None,
    spare: int | None = None,
) -> tuple[Notice, ...]:
    """Keep what is installed as a generation; if it is the held one, only note that it is.

    `state` is from `state_of`. Returns notices about what could not be written: no list waits for
    that.
    """
    texts = place.directory.texts()
    generations = place.generations
    noted = generations.installed(texts)
    try:
        if held:
            if noted != held:
                generations.note(held, texts)
        elif not noted:
            found = await state()
            known = {**place.hosts.read().block, **found.kept_out}
            hosts = {name: known[name] for name in sorted(found.names & known.keys())}
            await generations.keep(found.tables, hosts, texts, spare=spare)
    except SyncError as error:
        return (Notice(error.message, error.hint),)
    return ()
