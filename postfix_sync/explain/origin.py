"""Find which source has a list, since when it is installed, and which generation is held."""

from typing import TYPE_CHECKING, NamedTuple

from postfix_sync.errors import SyncError
from postfix_sync.store.state_directory import generations_of, hold_file_of, records_of

if TYPE_CHECKING:
    from postfix_sync.config.schema import Config


class Origin(NamedTuple):
    """Where an address of the installed maps comes from."""

    source: str | None = None
    since: float | None = None
    """When the oldest kept generation that has the list, and all after it, was installed."""
    held: int | None = None
    """The held generation, if one is held."""


async def origin_of(config: "Config", key: str | None) -> Origin:
    """Return the origin of an installed address; `key` is None if no list has the address."""
    hold = hold_file_of(config).read()
    held = hold.generation if hold else None
    if key is None:
        return Origin(held=held)
    return Origin(await _source(config, key), await _since(config, key), held)


async def _source(config: "Config", key: str) -> str | None:
    """Return the first source in the configuration whose last good lists have an address."""
    records = records_of(config)
    for section in config.sources:
        try:
            record = await records.read(section.name)
        except SyncError:
            continue
        if record and record.tables.names(key):
            return section.name
    return None


async def _since(config: "Config", key: str) -> float | None:
    generations = generations_of(config)
    since = None
    for number in generations.numbers():
        try:
            generation = await generations.load(number)
        except SyncError:
            break
        if not generation.tables.names(key):
            break
        since = generation.at
    return since
