"""Check that main.cf uses the maps, each in its role, and that nothing interferes with them.

postfix/main_cf/requirements.py decides what main.cf must say; these checks report the differences.
"""

import shlex
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import replace

from postfix_sync.doctor.findings import failure, ok, warning
from postfix_sync.doctor.host import Host
from postfix_sync.errors import SyncError
from postfix_sync.explain.list_mail import ListMail
from postfix_sync.model.finding import Finding, Verdict
from postfix_sync.model.map_names import ALIASES, DOMAINS, RECIPIENTS, ROUTES
from postfix_sync.postfix.main_cf import relay_recipients
from postfix_sync.postfix.main_cf.advice import advice
from postfix_sync.postfix.main_cf.classes import CLASSES, ROLES
from postfix_sync.postfix.main_cf.fixes import Setting, only_built, remedy
from postfix_sync.postfix.main_cf.requirements import settings
from postfix_sync.postfix.main_cf.unknown_recipients import accepting_tables
from postfix_sync.postfix.master_cf import Service
from postfix_sync.postfix.match_list import items
from postfix_sync.system.files import read_file

REPORTED = (
    *ROLES,
    "virtual_alias_domains",
    "recipient_delimiter",
    "propagate_unmatched_extensions",
    "owner_request_special",
    "unknown_local_recipient_reject_code",
    "soft_bounce",
    "smtpd_reject_unlisted_recipient",
)
"""The parameters that doctor reports even if they are right."""


async def ends(host: Host) -> AsyncIterator[Finding]:
    """Check that the last line has a newline: else postconf(1) appends a parameter to that line."""
    path = host.postfix.config_directory / "main.cf"
    content = read_file(path)
    if content and not content.endswith(b"\n"):
        yield warning(
            "main_cf_end",
            f"{path}: its last line does not end in a newline",
            "what postconf -e adds would become part of that line; do this before anything else",
            f"echo >> {shlex.quote(str(path))}",
        )
    else:
        yield ok("main_cf_end", f"{path}: its last line ends in a newline")


async def parameters(host: Host) -> AsyncIterator[Finding]:
    """Check that each parameter has the value that the maps need, and no harmful value."""
    found = _by_parameter(host, await accepting_tables(host.tables, host.classes))
    for parameter in [*REPORTED, *(parameter for parameter in found if parameter not in REPORTED)]:
        if host.classes.is_undecided(parameter):
            domain, error = min(host.classes.unknown.items(), key=lambda item: item[0])
            yield warning(
                parameter,
                f"{parameter} = {host.postfix.unexpanded[parameter]}",
                f"can't tell whether that is right, because the address class of {domain} is not"
                f" known: {error.message}",
            )
        elif setting := found.get(parameter):
            yield await _judged(host, setting)
        else:
            yield ok(parameter, f"{parameter} = {host.postfix.unexpanded[parameter]}")


async def _judged(host: Host, setting: Setting) -> Finding:
    """Return the finding for a setting: a warning if mail for all lists is delivered without it."""
    seen = f"{setting.parameter} = {setting.present}"
    fix = _remedy(host, setting)
    finding = Finding(setting.parameter, setting.verdict, seen, setting.problem, fix)
    if setting.is_unused and (mail := await _delivered(host)):
        return _lessened(finding, mail, setting.parameter)
    return finding


async def _delivered(host: Host) -> ListMail | None:
    """Return the explained mail of lists if it is certain that all of it is delivered."""
    try:
        mail = await host.list_mail()
    except (SyncError, OSError):
        return None  # the check `delivery` reports the error
    return mail if mail.all_delivered else None


def _lessened(finding: Finding, mail: ListMail, parameter: str) -> Finding:
    """Return a failure as a warning, which says what delivers the mail, and what is lost."""
    step = mail.step(_DECIDING.get(parameter, "recipient")) or mail.step("transport")
    by = (step.found if step.step == "recipient" else step.by) if step else ""
    how = f" ({by})" if by else ""
    why = f"{finding.why}. Mail for all lists is delivered to Mailman now nevertheless{how}; but"
    lost = _LOST[ROLES[parameter]]
    return replace(finding, verdict=Verdict.WARNING, why=f"{why} {lost} may be missed")


_DECIDING = {
    "relay_domains": "transport",
    "transport_maps": "transport",
    "virtual_alias_maps": "virtual_alias",
}
"""By parameter, the step of explain that shows what is used in place of the map."""

_LOST = {
    ALIASES: "an alias_domain that is set, changed or removed in Mailman",
    DOMAINS: "a list domain that is added or removed in Mailman",
    RECIPIENTS: "a list that is added or removed in Mailman",
    ROUTES: "a list in a new domain, or one that moves to another Mailman,",
}
"""By map, the changes that Postfix may miss as long as it does not use the map."""


def lacking(host: Host) -> list[Setting]:
    """Return what main.cf lacks for the maps to work, which is what setup changes."""
    return settings(host.postfix, host.tables.ours, host.classes)


def _by_parameter(host: Host, accepting: Mapping[str, str] | None = None) -> dict[str, Setting]:
    recipients = host.tables.own[RECIPIENTS].keys()
    advised = advice(host.postfix, host.tables.ours, host.classes, recipients, accepting)
    found = {setting.parameter: setting for setting in (*advised, *lacking(host))}
    found.pop("lmtp_host_lookup", None)  # `names.host_lookup` checks its effect
    return found


def _remedy(host: Host, setting: Setting) -> str | None:
    if setting.is_decision:
        return None
    first = "" if host.directory.is_built else host.command("--once")
    return only_built(first, setting, remedy(host.postfix, setting))


async def list_domains(host: Host) -> AsyncIterator[Finding]:
    """Check that each list domain is in exactly one of the parameters that give it its class."""
    classes, found = host.classes, _by_parameter(host)
    left_open = relay_recipients.left_open(host.postfix, classes)
    well: dict[str, int] = {}
    for domain in sorted(classes.domains):
        named = classes.parameters(domain)
        if error := classes.unknown.get(domain):
            yield warning(
                f"list_domains:{domain}",
                error.message,
                f"can't tell which address class {domain} has, before that can be read; no command"
                " is printed that depends on it",
            )
        elif not named:
            finding = _classless(host, domain, found.get("relay_domains"))
            mail = await _delivered(host)
            yield _lessened(finding, mail, "relay_domains") if mail else finding
        elif both := double(named):
            settings_of_domain = [
                found[parameter] for parameter in both if domain in _excluded(found.get(parameter))
            ]
            yield warning(
                f"list_domains:{domain}",
                f"{domain} is in {' and in '.join(both)}",
                "it counts as what it is in the first of them, and Postfix warns of it with each"
                " message",
                " && ".join(
                    filter(None, (_remedy(host, setting) for setting in settings_of_domain))
                )
                or None,
            )
        elif domain in left_open:
            yield warning(f"list_domains:{domain}", f"{domain} is in {named[0]}", left_open[domain])
        else:
            well[named[0]] = well.get(named[0], 0) + 1
    counted = ", ".join(f"{count} in {parameter}" for parameter, count in well.items())
    if well or not classes.domains:
        yield ok("list_domains", f"list domains: {counted or 'none yet'}")


def double(named: list[str]) -> list[str]:
    """Return the parameters about which Postfix warns if all of them name a domain.

    It does not warn about the pair of mydestination and relay_domains.
    """
    counted = [
        parameter
        for parameter in named
        if parameter != "relay_domains" or "mydestination" not in named
    ]
    return counted if len(counted) > 1 else []


def _excluded(setting: Setting | None) -> set[str]:
    return (
        {item[1:] for item in items(setting.wanted) if item.startswith("!")} if setting else set()
    )


def _classless(host: Host, domain: str, setting: Setting | None) -> Finding:
    return failure(
        f"list_domains:{domain}",
        f"{domain} is in none of {', '.join(CLASSES)}",
        'mail to its lists is refused ("Relay access denied")',
        _remedy(host, setting) if setting else None,
    )


async def overridden(host: Host) -> AsyncIterator[Finding]:
    """Check that no service of master.cf overrides a parameter, by -o, without naming the map.

    An empty override is right for a content filter, which accepts every recipient.
    """
    for service, parameter, finding in _overridden(host, OVERRIDES):
        mail = await _delivered(host)
        is_passed = mail and service.name in mail.services
        yield _lessened(finding, mail, parameter) if mail and is_passed else finding


async def rerouted(host: Host) -> AsyncIterator[Finding]:
    """Check as `overridden` does, but only transport_maps of trivial-rewrite(8)."""
    for _, _, finding in _overridden(host, {"trivial-rewrite": ("transport_maps",)}):
        yield finding


def _overridden(
    host: Host, overrides: Mapping[str, Sequence[str]]
) -> Iterator[tuple[Service, str, Finding]]:
    """Yield each service that overrides a parameter without naming the map, and its failure."""
    lacks = {setting.parameter for setting in lacking(host)}
    for service in host.services:
        for parameter in overrides.get(service.command, ()):
            present = service.overrides.get(parameter)
            counts = bool(present) or (present == "" and service.command == "trivial-rewrite")
            ours = host.tables.ours
            name = ROLES[parameter]
            in_main_cf = parameter in lacks or name in map(
                ours.named, items(host.postfix.parameters[parameter])
            )
            if not counts or not in_main_cf or name in map(ours.named, items(present or "")):
                continue
            place = f"{service.name}/{service.kind}/{parameter}"
            # postconf -P takes no white space in a value.
            wanted = ",".join([*items(present or ""), ours.reference(name)])
            finding = failure(
                f"override:{place}",
                f"master.cf: {service.name} {service.kind} has -o {parameter}={present}",
                f"for this {service.command}(8), the map in main.cf's {parameter} does not count",
                host.edit(f"{place}={wanted}", "-P"),
            )
            yield service, parameter, finding


OVERRIDES = {
    "smtpd": ("local_recipient_maps", "relay_recipient_maps", "virtual_mailbox_maps"),
    "cleanup": ("virtual_alias_maps",),
    "trivial-rewrite": ("transport_maps", "relay_domains"),
}
"""By program, the parameters that decide how it handles mail to lists."""


async def repeated(host: Host) -> AsyncIterator[Finding]:
    """Check that main.cf sets no parameter for the maps twice: the earlier value has no effect."""
    lost: dict[str, list[str]] = {}
    for line in host.warnings:
        _, marked, entry = line.partition(": overriding earlier entry: ")
        parameter, _, value = entry.partition("=")
        if marked and parameter in host.postfix.unexpanded:
            lost.setdefault(parameter, []).append(value)
    wanted = {setting.parameter: setting.wanted for setting in lacking(host)}
    for parameter, earlier in lost.items():
        merged = wanted.get(parameter, host.postfix.unexpanded[parameter])
        for item in (table for value in earlier for table in items(value)):
            merged = merged if item in items(merged) else f"{merged}, {item}"
        if parameter in ROLES or parameter in CLASSES:
            yield warning(
                f"repeated:{parameter}",
                f"{parameter} stands {len(earlier) + 1} times in main.cf; only the last one counts,"
                f" not: {'; '.join(earlier)}",
                "what the earlier one names is not used any more, and nobody meant that",
                # postconf -e replaces all of its lines by this one; with none, mail would bounce.
                None if _refuses(host, parameter) else host.edit(f"{parameter} = {merged}"),
            )


def _refuses(host: Host, parameter: str) -> bool:
    """Return whether an addition to a parameter may refuse mail, or route it elsewhere.

    An empty list of recipients accepts all; and an addition may change a domain's class.
    """
    if parameter in CLASSES:
        return parameter != "relay_domains"
    recipients = ROLES[parameter] == RECIPIENTS
    return recipients and not host.postfix.parameters[parameter]
