"""Check whether mail for each Mailman's container is routed to that container."""

from collections import Counter
from collections.abc import AsyncIterator

from postfix_sync.containers.relocate import unpublished
from postfix_sync.doctor.findings import failure, ok
from postfix_sync.doctor.host import Host
from postfix_sync.errors import SyncError
from postfix_sync.model.destination import Peer
from postfix_sync.model.finding import Finding
from postfix_sync.reconcile.fetch import Fetched


async def reached(host: Host) -> AsyncIterator[Finding]:
    """Check that containers run, that this host reaches them, and that installed routes lead there.

    `names.resolved` checks whether their host names resolve to these addresses.
    """
    places = {source.container: source for source in host.config.sources if source.container}
    names = Counter(place.name for place in places)
    for place, source in places.items():
        both = names[place.name] > 1  # docker and podman each have one of that name
        name = f"container:{place.engine}:{place.name}" if both else f"container:{place.name}"
        answer = host.answers.get(source.name, Fetched(None, host.now))
        if answer.misplaced:
            yield _not_reached(name, answer.misplaced)
        elif answer.peer:
            yield _judged(host, name, source.name, answer.peer)


def _not_reached(name: str, error: SyncError) -> Finding:
    way_out = "" if error.fix else f"; {error.hint}"
    return failure(
        name,
        error.message,
        "its last known address stays in use, and mail for its lists waits in the queue; one that"
        f" has never been known keeps its lists out{way_out}",
        error.fix,
    )


def _judged(host: Host, name: str, source: str, peer: Peer) -> Finding:
    tables = host.answers[source].tables
    where = ", ".join(peer.addresses) or "this host"
    seen = f"is reached at {where}: {peer.how}"
    if not tables:
        return ok(name, seen)
    routes = host.reached(source)
    if routes is None:
        ports = ", ".join(map(str, sorted(unpublished(tables.routes, peer))))
        return failure(
            name,
            seen,
            f"Mailman listens on port {ports}, which is not published on this host: publish it, or"
            " connect the container to a network of this host",
        )
    installed = host.routes_in_use
    # Routes of a cluster lead to its other members as well.
    elsewhere = {
        installed[key]
        for key, hop in routes.items()
        if key in installed and hop.removeprefix("lmtp:") not in installed[key]
    }
    if elsewhere:
        return failure(
            name,
            f"{seen}; but lists of it are routed to {' and '.join(sorted(elsewhere))}",
            "mail for these lists goes to where Mailman is not",
            host.command("--once"),
        )
    return ok(name, seen)
