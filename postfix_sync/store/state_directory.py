"""The places of the files in the state directory."""

from typing import TYPE_CHECKING

from postfix_sync.store.generations import Generations
from postfix_sync.store.hold import HoldFile
from postfix_sync.store.known_texts import KnownTexts
from postfix_sync.store.records import Records
from postfix_sync.store.retirement_record import RetirementRecord

if TYPE_CHECKING:
    from postfix_sync.config.schema import Config

LOCK_NAME = "lock"

ONCE_LOCK_NAME = "once.lock"
"""The lock of the `--once` that reads the sources: one at a time, without delaying the daemon."""

RECORDS_NAME = "sources"

KNOWN_TEXTS_NAME = "texts.json"

RETIREMENT_NAME = "retiring.json"


def generations_of(config: "Config") -> Generations:
    """Return the generations of the configured state directory."""
    return Generations(config.state_directory, config.generations, config.command("rollback"))


def hold_file_of(config: "Config") -> HoldFile:
    """Return the file of the hold in the configured state directory."""
    return HoldFile(config.state_directory)


def known_texts_of(config: "Config") -> KnownTexts:
    """Return the file of the installed texts' entries in the configured state directory."""
    return KnownTexts(config.state_directory / KNOWN_TEXTS_NAME)


def retirement_record_of(config: "Config") -> RetirementRecord:
    """Return the retirement record of the configured state directory."""
    return RetirementRecord(config.state_directory / RETIREMENT_NAME)


def records_of(config: "Config") -> Records:
    """Return the sources' records of the configured state directory."""
    return Records(config.state_directory / RECORDS_NAME)
