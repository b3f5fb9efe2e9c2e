"""Check Postfix itself: its version, whether it runs, can read our maps and deliver by LMTP.

`postfix check` is not used, because it creates missing directories, and doctor changes nothing.
"""

import re
from collections.abc import AsyncIterator, Iterable

from postfix_sync.doctor.findings import failure, ok, warning
from postfix_sync.doctor.host import Host
from postfix_sync.model.finding import Finding
from postfix_sync.postfix.lmtp_client import ENCRYPTED
from postfix_sync.postfix.main_cf.fixes import command
from postfix_sync.postfix.main_cf.requirements import cluster_notices
from postfix_sync.postfix.match_list import items

WARNINGS_SHOWN = 3
"""Warnings of Postfix that a finding quotes."""

_UNCOMMENTED = re.compile(r"undefined parameter: mua_(client|helo|sender)_restrictions$")
"""Warnings about the submission service as Postfix's own master.cf has it, once uncommented."""


async def found(host: Host) -> AsyncIterator[Finding]:
    """Check that Postfix is new enough for clusters, if there are any."""
    seen = f"Postfix {host.postfix.version}, {host.postfix.config_directory}"
    clusters = sorted({source.cluster for source in host.config.sources if source.cluster})
    if clusters and not host.postfix.several_next_hops:
        yield warning(
            "postfix",
            seen,
            f"a route with several next hops needs Postfix 3.5: the lists of {clusters[0]} are"
            " routed to one of its members only, and wait while that one is down",
        )
    else:
        yield ok("postfix", seen)


async def running(host: Host) -> AsyncIterator[Finding]:
    """Check that master(8) of this instance runs."""
    if pid := host.postfix.processes.master:
        yield ok("running", f"process {pid}")
    else:
        yield warning(
            "running",
            "Postfix is stopped",
            "no mail is taken and none is delivered until it is started",
            host.service("start"),
        )


async def main_cf_warnings(host: Host) -> AsyncIterator[Finding]:
    """Check that Postfix reads main.cf and master.cf without a warning."""
    lines = [line for line in host.warnings if not _UNCOMMENTED.search(line)]
    if lines:
        more = len(lines) - WARNINGS_SHOWN
        seen = "; ".join(lines[:WARNINGS_SHOWN]) + (f"; and {more} more" if more > 0 else "")
        yield warning(
            "main_cf_warnings",
            seen,
            "of a parameter that stands twice only the last line counts, and one that Postfix does"
            " not know is spelt wrong or left from another version: mend or remove these lines."
            " The command makes those comments that nothing uses",
            _commented_out(host, lines),
        )
    else:
        yield ok("main_cf_warnings", "main.cf and master.cf are read without a warning")


def _commented_out(host: Host, warnings: Iterable[str]) -> str | None:
    """Return the command that comments out the lines of main.cf that have no effect; None if none.

    `warnings` are postconf(1)'s.
    """
    found = (re.match(r"\S*/main\.cf: unused parameter: (\w+)=", line) for line in warnings)
    names = sorted({match[1] for match in found if match})
    return command(host.postfix, "postconf", "-#", *names) if names else None


async def transport(host: Host) -> AsyncIterator[Finding]:
    """Check that master.cf has the transport that all routes name, and that it speaks LMTP."""
    service = host.lmtp
    if service and service.command == "lmtp":
        chrooted = "chrooted" if service.chrooted else "not chrooted"
        yield ok("transport", f"lmtp in master.cf, {chrooted}{_options(service.overrides)}")
        return
    beside = next(
        (service for service in host.services if (service.name, service.kind) == ("smtp", "unix")),
        None,
    )
    chroot = "y" if beside and beside.chrooted else "n"
    line = f"lmtp unix - - {chroot} - - lmtp"
    fix = host.edit(f"lmtp/unix={line}", "-M")
    if service:
        yield failure(
            "transport",
            f"lmtp in master.cf runs {service.command}",
            "all routes to lists name the transport lmtp; Mailman is spoken to by another protocol"
            ' than its own, and the mail bounces (command "HELO" not recognized)',
            fix,
        )
    else:
        yield failure(
            "transport",
            "master.cf has no service lmtp",
            'all routes to lists name it: their mail waits in the queue ("mail transport'
            ' unavailable")',
            fix,
        )


def _options(overrides: object) -> str:
    if not isinstance(overrides, dict) or not overrides:
        return ""
    return "".join(f", -o {name}={value}" for name, value in overrides.items())


async def lmtp_parameters(host: Host) -> AsyncIterator[Finding]:
    """Check that lmtp(8) does not require TLS, a login, or a flush of deferred transports."""
    level, maps = "lmtp_tls_security_level", "lmtp_tls_policy_maps"
    login, passwords = "lmtp_sasl_auth_enable", "lmtp_sasl_password_maps"
    values = await host.postfix.values(login, passwords, "defer_transports")
    held = items(values["defer_transports"])
    if "lmtp" in held:
        rest = " ".join(name for name in held if name != "lmtp")
        yield failure(
            "defer_transports",
            f"defer_transports = {values['defer_transports']}",
            "no mail is delivered by lmtp until somebody asks for it (sendmail -q)",
            host.edit(f"defer_transports = {rest}"),
        )
    values |= host.lmtp.overrides if host.lmtp else {}
    if values[login] == "yes" and not values[passwords]:
        yield failure(
            login,
            f"{login} = yes, and {passwords} is empty",
            "lmtp(8) ends as soon as it is started (fatal: specify a password table), and all mail"
            " that it should deliver waits",
            host.set_lmtp(login, "no"),
        )
    lmtp = host.postfix.lmtp
    if lmtp.tls_level in ENCRYPTED:
        finding = failure if lmtp.requires_tls else warning
        unless = "" if lmtp.requires_tls else f" unless {maps} says otherwise for it"
        yield finding(
            lmtp.tls_setting.partition(" = ")[0],
            lmtp.tls_setting,
            "Mailman's LMTP server has no STARTTLS: its mail waits until it is returned"
            f' ("TLS is required, but was not offered"){unless}; "may" encrypts where it can',
            host.set_lmtp(level, "may"),
        )
    else:
        yield ok(level, f"{level} = {lmtp.tls_level or 'none'}")
    if any(source.cluster for source in host.config.sources):
        for notice in cluster_notices(host.postfix):
            yield warning("lmtp_connect_timeout", notice.message, "", notice.hint)
