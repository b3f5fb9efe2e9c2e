"""Follow addresses on their way to the queue, from the public listener and from other services."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from postfix_sync.explain import paths, rewriting
from postfix_sync.explain.steps import COMPUTED, Step, Verdict
from postfix_sync.explain.view import View


@dataclass(frozen=True)
class Way:
    """How an address is rewritten on its way to the queue."""

    finals: Sequence[str]
    steps: Sequence[Step]


@dataclass(frozen=True)
class Entry:
    """Services that take mail, and rewrite addresses otherwise than the public path."""

    services: tuple[str, ...]
    path: paths.Path
    ways: Mapping[str, Way]
    """By address."""
    differences: tuple[str, ...]
    """The parameters that differ from those of the public path, with their values."""

    @property
    def name(self) -> str:
        """Return the names of the services, for messages."""
        return f"{', '.join(self.services)} in master.cf"


async def public_ways(
    view: View, addresses: Sequence[str], *, aliased: bool = True
) -> dict[str, Way]:
    """Follow each address from the public listener to the queue."""
    path = _public_path(view)
    if path is None:
        return {address: Way([address], []) for address in addresses}
    return await _ways(view, addresses, path, aliased=aliased)


async def other_entries(view: View, addresses: Sequence[str]) -> list[Entry]:
    """Follow each address from the other services that rewrite addresses in another way.

    Services with equal paths are followed together.
    """
    public = _public_path(view)
    if public is None:
        return []
    grouped: list[tuple[paths.Path, list[str]]] = []
    for name, path in paths.other_paths(view.listeners, view.services, view.parameters).items():
        if _mappings(view, path) == _mappings(view, public):
            continue
        same = (names for one, names in grouped if _mappings(view, one) == _mappings(view, path))
        if (names := next(same, None)) is not None:
            names.append(name)
        else:
            grouped.append((path, [name]))
    return [
        Entry(
            tuple(names),
            path,
            await _ways(view, addresses, path),
            tuple(_differences(view, path, public)),
        )
        for path, names in grouped
    ]


def _public_path(view: View) -> paths.Path | None:
    listener = paths.public(view.listeners)
    if listener is None:
        return None
    return paths.path_from(listener, view.services, view.parameters)


def _mappings(view: View, path: paths.Path) -> tuple[bool, list[dict[str, str]]]:
    """Return what decides how a path rewrites addresses; equal paths rewrite them equally."""
    cleanups = [view.cleanup(passage) for passage in path.passages if passage.maps]
    used = [{name: one.parameters[name] for name in rewriting.PARAMETERS} for one in cleanups]
    return path.leaves, used


def _differences(view: View, path: paths.Path, public: paths.Path) -> Iterable[str]:
    """Yield the parameters of a path that rewrite addresses otherwise than the public path does."""
    _, used = _mappings(view, public)
    for passage in path.passages:
        if not passage.maps:
            yield f"receive_override_options = no_address_mappings at {passage.service}"
            continue
        cleanup = view.cleanup(passage)
        for name in rewriting.PARAMETERS:
            value = cleanup.parameters[name]
            if any(value != one[name] for one in used):
                yield f"{cleanup.place(name)} = {value}"


async def _ways(
    view: View, addresses: Sequence[str], path: paths.Path, *, aliased: bool = True
) -> dict[str, Way]:
    mapping = [view.cleanup(passage) for passage in path.passages if passage.maps]
    for cleanup in mapping:
        await cleanup.query_at_once(addresses)
    return {address: await _way(address, path, mapping, aliased=aliased) for address in addresses}


async def _way(
    address: str, path: paths.Path, mapping: Sequence[rewriting.Cleanup], *, aliased: bool
) -> Way:
    finals = [address]
    steps: list[Step] = []
    if path.filter:
        by = "main.cf or master.cf"
        lost = Verdict.UNKNOWN if path.leaves else None
        known = None if path.leaves else True
        steps.append(Step("filter", address, path.filter, by, COMPUTED, known, lost))
    for cleanup in mapping:
        results = []
        for recipient in finals:
            rewritten, made = await cleanup.rewritten(recipient)
            expanded, more = await cleanup.aliased(rewritten) if aliased else ([rewritten], [])
            steps += [*made, *more]
            results += expanded
        finals = list(dict.fromkeys(results))
    return Way(finals, steps)
