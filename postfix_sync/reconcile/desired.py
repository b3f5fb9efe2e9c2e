"""Stage 4: the desired state, from the decision on all sources, or from the hold."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from postfix_sync.errors import ApplyError, SyncError
from postfix_sync.model.installed import Desired
from postfix_sync.model.notice import Notice
from postfix_sync.reconcile.changes import difference
from postfix_sync.reconcile.deliverable import without_undeliverable
from postfix_sync.reconcile.hold import HeldState, Order, held_state

if TYPE_CHECKING:
    from postfix_sync.reconcile.decide import Decision
    from postfix_sync.reconcile.inputs import Inputs
    from postfix_sync.reconcile.locked import Locked
    from postfix_sync.store.hold import Hold


@dataclass(frozen=True)
class DesiredState:
    """What one sync is to bring about, and what the operator should know of it."""

    desired: Desired | None
    """None if it is unknown which installed entries must be kept; the maps are unchanged then."""
    decision: "Decision"
    """With the errors of sources whose lists could not be delivered to."""
    hold: "Hold | None" = None
    generation: int | None = None
    """The held generation, if `desired` is what it has."""
    waiting: str = ""
    """What would change without the hold."""
    notices: tuple[Notice, ...] = ()
    failed: tuple[SyncError, ...] = ()

    @property
    def may_record(self) -> bool:
        """Whether the sources' answers may be recorded: under a hold, none is accepted."""
        return self.hold is None


async def desired_state(
    place: "Locked",
    inputs: "Inputs",
    order: Order,
    decision: "Decision",
) -> DesiredState:
    """Compute what the maps and the hosts file are to hold. A dry run shows what has no hold."""
    hold = order.hold
    notices = order.notices + (_kept_out(place, decision) if decision.maps else ())
    goal = None
    if decision.maps:
        maps = decision.maps.beside(place.directory.postfix.other_domains)
        goal = Desired(maps, decision.addresses)
    held = HeldState(None)
    waiting = ""
    if hold:
        held = await held_state(place, hold, inputs, decision)
        if held.desired and goal:
            waiting = "; ".join(difference(held.desired.maps, goal.maps))
        if inputs.request.roll_back is None and (waiting or inputs.request.dry_run):
            notices += (_held(place, hold, waiting),)
        goal = goal if inputs.request.dry_run else held.desired
    failed: tuple[SyncError, ...] = (held.error,) if held.error else ()
    if goal is None and not hold:
        failed += (_undecided(place, inputs, decision),)
    if goal:
        checked = await without_undeliverable(place, inputs, hold, goal, decision)
        goal, failed = checked.desired, failed + checked.failed
        decision = replace(decision, errors=checked.errors)
    return DesiredState(goal, decision, hold, held.generation, waiting, notices, failed)


def _kept_out(place: "Locked", decision: "Decision") -> tuple[Notice, ...]:
    """Warn once of host names that do not enter the hosts file, or are removed from it."""
    containers = [source.container for source in place.config.sources if source.container]
    names = " ".join(one.name for one in containers if one.engine == "podman")
    restart = f"podman restart {names or 'NAME (podman ps shows the names)'}"
    return tuple(
        Notice(
            f"{place.hosts.path}: podman copies this file into its containers, and a Mailman"
            f" that finds its own name {host} there listens on a wrong address; the name is"
            f" kept out of the file, and its lists are routed to {decision.kept_out[host]}",
            f"if Mailman was started while the name was in the file: {restart}",
        )
        for host in sorted(decision.newly_kept_out)
    )


def _held(place: "Locked", hold: "Hold", waiting: str) -> Notice:
    """Report the pending changes, as long as there are some."""
    return Notice(
        f"{hold}; pending: {waiting or 'nothing'}",
        f"see all of it: {place.config.command('--once', '--dry-run')};"
        f" let it happen: {place.config.command('resume')}",
    )


def _undecided(place: "Locked", inputs: "Inputs", decision: "Decision") -> SyncError:
    """Report that it is unknown which entries must be kept."""
    broken = ", ".join(
        str(place.directory.path / name)
        for name, found in inputs.installed.maps.items()
        if found.table is None
    )
    unknown = ", ".join(
        source.name for source in inputs.sources if source.name not in decision.records
    )
    return ApplyError(
        f"{broken}: can't be read, and there are no last good lists of {unknown}, so it is unknown"
        " which lists to keep; the maps are unchanged",
        f"fix what keeps {unknown} from answering; or remove {broken}, and its lists with it",
    )
