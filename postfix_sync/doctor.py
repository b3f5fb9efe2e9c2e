"""doctor: does this host's Postfix do what the maps need? Read-only, and told without a traceback.

The checks are functions in checks/, in a table here. What stops one of them is a finding of its
own; where there is no Postfix at all, that is the only one that counts.
"""

from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING

from postfix_sync import postfix, state, wiring
from postfix_sync.checks import Check, Host, failure, main_cf
from postfix_sync.errors import SyncError
from postfix_sync.maps import MapDirectory
from postfix_sync.model import Finding, Verdict
from postfix_sync.sync import ask_all, opened

if TYPE_CHECKING:
    from postfix_sync.config import Config

CHECKS: Mapping[str, Check] = {
    "main_cf": main_cf.maps_named,
}
"""All checks in the order in which they are told, by what to call one that could not be made."""


async def examine(config: "Config") -> AsyncIterator[Finding]:
    """What every check found, as they find it."""
    try:
        host = await _host(config)
    except SyncError as error:
        yield failure("postfix", error.message, error.hint)
        return
    for name, check in CHECKS.items():
        try:
            async for finding in check(host):
                yield finding
        except SyncError as error:
            yield failure(name, error.message, error.hint)


async def _host(config: "Config") -> Host:
    """Asks what the checks have in common. Raises SyncError where there is no Postfix."""
    instance = await postfix.inspect(config.postfix.config_directory)
    map_directory = config.postfix.map_directory
    map_type = wiring.choose_map_type(instance, map_directory, config.postfix.map_type)
    try:
        status = state.StatusFile(config.state_directory).read()
    except SyncError:
        status = None
    async with opened(config) as sources:
        answers = await ask_all(config, sources)
    return Host(
        config=config,
        postfix=instance,
        map_type=map_type,
        installed=MapDirectory(map_directory, map_type, instance).tables(),
        answers=answers,
        status=status,
    )


def as_json(findings: list[Finding]) -> dict[str, object]:
    """The findings as one JSON document."""
    return {
        "ok": all(one.verdict is not Verdict.FAILURE for one in findings),
        "checks": [
            {
                "name": one.name,
                "status": one.verdict.value,
                "seen": one.seen,
                "why": one.why,
                "fix": one.fix,
            }
            for one in findings
        ],
    }
