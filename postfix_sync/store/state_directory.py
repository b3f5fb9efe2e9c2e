"""Where each file of the state directory is."""

from typing import TYPE_CHECKING

from postfix_sync.store.generations import Generations
from postfix_sync.store.records import Records
from postfix_sync.store.retirement_record import RetirementRecord

if TYPE_CHECKING:
    from postfix_sync.config.schema import Config

LOCK_NAME = "lock"

ONCE_LOCK_NAME = "once.lock"
"""One `--once` reads the sources at a time. A lock of its own: the daemon waits for no source."""

RECORDS_NAME = "sources"

RETIREMENT_NAME = "retiring.json"


def generations_of(config: "Config") -> Generations:
    """Where the last states of the maps are."""
    return Generations(config.state_directory, config.generations, config.command("rollback"))


def retirement_record_of(config: "Config") -> RetirementRecord:
    """Where what is kept for a while is noted."""
    return RetirementRecord(config.state_directory / RETIREMENT_NAME)


def records_of(config: "Config") -> Records:
    """Where the sources' records are."""
    return Records(config.state_directory / RECORDS_NAME)
