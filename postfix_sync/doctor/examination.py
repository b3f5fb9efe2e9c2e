"""doctor: check whether this host's Postfix does what the maps need. Read-only.

The checks are functions in checks/, in a table here. If a check fails with an error, the error is a
finding, without a traceback. If there is no Postfix at all, that is the only finding.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from postfix_sync.containers.engine import copied_into_containers
from postfix_sync.containers.routable_names import routable_names
from postfix_sync.doctor.checks import (
    chroot,
    container,
    delivery,
    files,
    generations,
    hosts_file,
    instance,
    interfaces,
    limits,
    lookups,
    mail,
    main_cf,
    map_types,
    monitoring,
    names,
    network,
    next_hops,
    sources,
    units,
    upkeep,
    verification,
)
from postfix_sync.doctor.findings import Check, failure
from postfix_sync.doctor.host import Host, served
from postfix_sync.errors import ConfigError, SyncError, why
from postfix_sync.explain.list_mail import explain_lists
from postfix_sync.hosts_file.files import HostsFiles
from postfix_sync.model.finding import Finding, Verdict
from postfix_sync.model.map_names import INDEX_SUFFIX
from postfix_sync.model.probe_result import ProbeResult
from postfix_sync.postfix import lmtp_resolver
from postfix_sync.postfix.inspection import Inspector
from postfix_sync.postfix.instance import Postfix, inspect
from postfix_sync.postfix.main_cf.address_classes import classify
from postfix_sync.postfix.main_cf.lookup import Tables
from postfix_sync.postfix.main_cf.map_type import choose_map_type, named_types
from postfix_sync.postfix.map_directory import MapDirectory
from postfix_sync.probe.lmtp import probe_all
from postfix_sync.probe.targets import targets
from postfix_sync.reconcile.fetch import fetch_all, open_sources, usable
from postfix_sync.reconcile.locked import installation
from postfix_sync.reconcile.report import Request
from postfix_sync.reconcile.sync import sync
from postfix_sync.status import transitions
from postfix_sync.status.file import StatusFile
from postfix_sync.system.tasks import shared

if TYPE_CHECKING:
    from postfix_sync.config.schema import Config

CHECKS: Mapping[str, Check] = {
    "postfix": instance.found,
    "running": instance.running,
    "map_type": map_types.map_type,
    "main_cf_end": main_cf.ends,
    "main_cf_warnings": instance.main_cf_warnings,
    "transport": instance.transport,
    "main_cf": main_cf.parameters,
    "list_domains": main_cf.list_domains,
    "override": main_cf.overridden,
    "tables": lookups.tables,
    "routes": lookups.routes,
    "aliases": lookups.aliases,
    "repeated": main_cf.repeated,
    "verification": verification.verification,
    "lmtp_parameters": instance.lmtp_parameters,
    "delays": limits.delays,
    "message_size_limit": limits.sizes,
    "smtputf8_enable": limits.smtputf8,
    "container": container.reached,
    "hosts": hosts_file.entries,
    "lmtp_host_lookup": names.host_lookup,
    "chroot": chroot.copies,
    "name": names.resolved,
    "family": next_hops.families,
    "next_hops": next_hops.distinct,
    "mynetworks": network.mynetworks,
    "inet_interfaces": interfaces.inet_interfaces,
    "map_directory": files.map_directory,
    "maps": files.maps,
    "in_step": files.in_step,
    "other_maps": files.other_maps,
    "sources": sources.readable,
    "replicas": sources.replicas,
    "events": sources.events,
    "ssh_keys": sources.ssh_keys,
    "state_directory": upkeep.state_directory,
    "room": upkeep.room,
    "clock": upkeep.clock,
    "passes": upkeep.syncs,
    "units": units.running,
    "podman_socket": units.podman_socket,
    "delivery": delivery.delivery,
    "probe": mail.probe,
    "deferred": mail.deferred,
    "metrics_textfile": monitoring.textfile,
    "held": generations.held,
    "generations": generations.whole,
}
"""All checks in the order of their report; the key names the finding if a check itself fails."""

NEED_MAP_TYPE = frozenset(
    {
        *("main_cf", "list_domains", "override", "routes", "aliases", "repeated"),
        *("maps", "in_step"),
    }
)
"""The checks that depend on the type of the maps: on what main.cf must say, or on an index."""


async def examine(config: "Config") -> AsyncIterator[Finding]:
    """Run every check, and yield each finding as soon as it is made."""
    try:
        found = await inspect(config.postfix.config_directory)
    except SyncError as error:
        yield failure("postfix", error.message, error.hint)
        return
    try:
        host, checks = await _gathered(config, found)
    except ConfigError as error:
        yield failure("map_type", error.message, error.hint)
        return
    except SyncError as error:
        yield failure("maps", error.message, error.hint or _NOTHING_INSTALLED, error.fix)
        return
    for name, check in checks.items():
        try:
            async for finding in check(host):
                yield finding
        except SyncError as error:
            yield failure(name, error.message, error.hint, error.fix)
        except OSError as error:
            yield failure(name, f"{error.filename or name}: {why(error)}", "it can't be checked")
        except Exception as error:  # noqa: BLE001 - the other checks still have to run
            yield failure(name, f"{error!r}", "this check is at fault, please report it")


async def _gathered(config: "Config", found: Postfix) -> tuple[Host, Mapping[str, Check]]:
    """Return the host, and the checks to make there. Raises as `gather` does.

    If the maps cannot be built as the configured type, another type stands for it, and checks that
    depend on the type are left out.
    """
    directory, configured = config.postfix.map_directory, config.postfix.map_type
    try:
        choose_map_type(found, directory, configured)
    except ConfigError as error:
        present = error
    else:
        return await gather(config, found), CHECKS

    async def map_type(host: Host) -> AsyncIterator[Finding]:
        yield await map_types.not_chosen(host, config, present)

    named = named_types(found, directory)
    buildable = INDEX_SUFFIX.keys() & found.map_types
    usable = [name for name in (*named, *INDEX_SUFFIX) if name in buildable]
    if not usable:
        raise present
    clashes = configured == "auto" or configured in found.map_types
    left_out = {"in_step"} if clashes else NEED_MAP_TYPE
    checks = {name: check for name, check in CHECKS.items() if name not in left_out}
    host = await gather(config.with_map_type(usable[0]), found, usable[0])
    return host, {**checks, "map_type": map_type}


_NOTHING_INSTALLED = (
    "as long as that can't be read, no sync installs anything, and doctor can't check the rest"
)


async def gather(config: "Config", found: Postfix, map_type: str = "") -> Host:
    """Gather what the checks have in common: the sources' answers, the maps, Postfix, the probes.

    `map_type` is the type of the maps, if it cannot be chosen.

    Raises:
        ConfigError: no map can be built.
        ApplyError, NotPermitted: the text of one can't be read.
    """
    map_directory = config.postfix.map_directory
    map_type = map_type or choose_map_type(found, map_directory, config.postfix.map_type)
    status, without_status = None, ""
    try:
        status = StatusFile.of(config).read()
    except SyncError as error:
        without_status = error.message
    async with open_sources(config) as sources:
        answers = usable(await fetch_all(config, sources, found.fold), found.families)
    rankings = transitions.rankings(status) if status else {}
    inspector = Inspector(config.postfix.config_directory, found)
    upcoming = await sync(config, answers, rankings, Request(dry_run=True), inspector)
    kind = await found.index_type(map_type)
    installed = MapDirectory(map_directory, kind, found).tables()
    hosts = HostsFiles(config.hosts.file, None)
    copied = copied_into_containers(hosts.path)
    hosts_used = any(source.address for source in config.sources) and not copied
    ours = installation(config, map_type, hosts_used)
    tables = Tables(found, ours, served(installed, answers))
    classes = await classify(tables)
    host = Host(
        config=config,
        postfix=found,
        kind=kind,
        installed=installed,
        answers=answers,
        tables=tables,
        classes=classes,
        upcoming=upcoming,
        list_mail=shared(
            partial(explain_lists, config, tables, classes.domains | classes.mail_hosts)
        ),
        by_name=routable_names(hosts),
        services=await found.services(),
        written=await found.written(),
        warnings=await found.warnings(),
        status=status,
        without_status=without_status,
        index_types={
            name: await found.index_type(name) for name in INDEX_SUFFIX if name in found.map_types
        },
    )
    # A server that does not answer costs a whole timeout, so both run at the same time.
    probes, lookups = await asyncio.gather(
        _probes(host),
        lmtp_resolver.look_up_all(found.lmtp.resolver, host.host_names),
    )
    host = replace(host, probes=probes, lookups=lookups)
    if names.lost(host):
        tables.ours = replace(ours, hosts_used=True)
    return host


async def _probes(host: Host) -> list[ProbeResult]:
    """Probe each destination; return no result if probes are off."""
    config, routes = host.config, host.routes_in_use
    section = config.probe
    if section.level == "off":
        return []
    try:
        hosts = HostsFiles(config.hosts.file, None).read().lookup()
    except SyncError:
        hosts = {}  # the resolver reads the hosts file itself
    lmtp = replace(host.postfix.lmtp, known=hosts)
    found = targets(routes, host.upcoming.replicas)
    probed = [replace(target, doubting=True) for target in found]
    return await probe_all(probed, section.level, section.timeout, lmtp)


def as_json(findings: list[Finding]) -> dict[str, object]:
    """Return the findings as one JSON document."""
    return {
        "ok": all(finding.verdict is not Verdict.FAILURE for finding in findings),
        "checks": [
            {
                "name": finding.name,
                "status": finding.verdict.value,
                "seen": finding.seen,
                "why": finding.why,
                "fix": finding.fix,
            }
            for finding in findings
        ],
    }
