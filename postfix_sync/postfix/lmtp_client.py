"""Find out what lmtp(8) may do: which IP versions it uses, how it looks names up, and TLS.

The parameters are those of main.cf, which the lmtp service of master.cf may override.
"""

import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from postfix_sync.model.destination import BOTH_FAMILIES, Families
from postfix_sync.postfix.lmtp_resolver import DNS, NATIVE, Resolver
from postfix_sync.postfix.master_cf import LMTP, lmtp_service, service
from postfix_sync.postfix.match_list import items
from postfix_sync.postfix.postconf import postconf, settings_of
from postfix_sync.system.interfaces import has_ipv6

PARAMETERS = (
    "compatibility_level",
    "disable_dns_lookups",
    "inet_protocols",
    "lmtp_dns_resolver_options",
    "lmtp_dns_support_level",
    "lmtp_enforce_tls",
    "lmtp_host_lookup",
    "lmtp_tls_policy_maps",
    "lmtp_tls_security_level",
    "mail_owner",
    "queue_directory",
)
"""The parameters of main.cf that decide."""

DEPRECATED = frozenset({"disable_dns_lookups", "lmtp_enforce_tls"})
"""Those of them that a later Postfix may not know any more (DEPRECATION_README)."""

ENCRYPTED = frozenset({"dane-only", "encrypt", "fingerprint", "secure", "verify"})
"""The values of lmtp_tls_security_level with which lmtp(8) sends no mail without TLS."""

_SEARCHES = frozenset({"res_defnames", "res_dnsrch"})
"""The resolver options with which the DNS is queried for more than the name as written."""

_FAMILY = {frozenset({4}): int(socket.AF_INET), frozenset({6}): int(socket.AF_INET6)}
"""The address family, if lmtp(8) may use only one."""


@dataclass(frozen=True)
class LmtpClient:
    """What lmtp(8) may do. The defaults are for a host without Postfix."""

    families: Families = BOTH_FAMILIES
    """The versions of IP that it may use."""
    resolver: Resolver = field(default_factory=Resolver)
    known: Mapping[str, str] = field(default_factory=dict)
    """Host names with the IP addresses that the hosts file gives them: these are not looked up."""
    tls_level: str = ""
    """Its security level for TLS."""
    tls_setting: str = ""
    """The parameter that sets that, with its value, for messages."""
    tls_policies: str = ""
    """The tables with other levels for some servers."""
    is_chrooted: bool = False

    @property
    def requires_tls(self) -> bool:
        """Whether it sends no mail to a server without STARTTLS, whichever server it is."""
        return self.tls_level in ENCRYPTED and not self.tls_policies


async def lmtp_client_of(config_directory: Path) -> LmtpClient:
    """Return what lmtp(8) of an instance may do. Raises ConfigError if there is no Postfix."""
    parameters = settings_of(await postconf(config_directory, "-x", *PARAMETERS))
    services = ""
    if (config_directory / "master.cf").exists():
        services = await postconf(config_directory, "-M", "/".join(LMTP))
    return await lmtp_client(config_directory, parameters, services)


async def lmtp_client(
    config_directory: Path, parameters: Mapping[str, str], services: str
) -> LmtpClient:
    """Return what lmtp(8) may do by main.cf's PARAMETERS and the lines of `postconf -M`."""
    overrides = {}
    if any(tuple(line.split()[:2]) == LMTP and "-o" in line for line in services.splitlines()):
        overrides = settings_of(await postconf(config_directory, "-P", "-x"))
    level = parameters["compatibility_level"]
    found = lmtp_service(
        service(line, overrides, level) for line in services.splitlines() if line.strip()
    )
    own = {**dict.fromkeys(DEPRECATED, "no"), **parameters, **(found.overrides if found else {})}
    families = _families(own["inet_protocols"])
    is_chrooted = bool(found and found.chrooted)
    name = "lmtp_tls_security_level"
    is_enforced = not own[name] and own["lmtp_enforce_tls"] == "yes"
    return LmtpClient(
        families=families,
        resolver=Resolver(
            mechanisms=mechanisms(own),
            user=own["mail_owner"] if found is None or found.unprivileged else None,
            root=Path(own["queue_directory"]) if is_chrooted else None,
            family=_FAMILY.get(families, 0),
            search=not _SEARCHES.isdisjoint(items(own["lmtp_dns_resolver_options"].lower())),
        ),
        tls_level="encrypt" if is_enforced else own[name],
        tls_setting="lmtp_enforce_tls = yes" if is_enforced else f"{name} = {own[name]}",
        tls_policies=own["lmtp_tls_policy_maps"],
        is_chrooted=is_chrooted,
    )


def mechanisms(parameters: Mapping[str, str]) -> tuple[str, ...]:
    """Return lmtp(8)'s mechanisms by main.cf: only getaddrinfo(3) if DNS lookups are disabled."""
    level = parameters["lmtp_dns_support_level"]
    if (level or parameters["disable_dns_lookups"]) in {"disabled", "yes"}:
        return (NATIVE,)
    named = items(parameters["lmtp_host_lookup"])
    return tuple(mechanism for mechanism in (DNS, NATIVE) if mechanism in named)


def _families(inet_protocols: str) -> Families:
    """Return the versions of IP that a value of inet_protocols permits."""
    named = set(items(inet_protocols.lower()))
    found = {version for version in (4, 6) if named & {"all", f"ipv{version}"}}
    if 4 in found and not has_ipv6():
        found.discard(6)
    return frozenset(found)
