"""A Postfix with given main.cf parameters, for unit tests, and sets of such parameters."""

from pathlib import Path

from postfix_sync.postfix.instance import PARAMETERS, Postfix
from postfix_sync.postfix.main_cf.classes import CLASSES, Classes
from postfix_sync.postfix.main_cf.fixes import Setting
from postfix_sync.postfix.main_cf.parameter import Installation
from postfix_sync.postfix.main_cf.requirements import settings
from postfix_sync.postfix.match_list import Style, decision, patterns
from postfix_sync.postfix.processes import Processes

MAPS = Path("/etc/postfix/mailman")
VOLUME = Path("/srv/mailman_var/data")
WIRED = {
    "transport_maps": "lmdb:/etc/postfix/mailman/postfix_lmtp",
    "relay_domains": "lmdb:/etc/postfix/mailman/postfix_domains",
    "relay_recipient_maps": "lmdb:/etc/postfix/mailman/postfix_recipients",
    "virtual_alias_maps": "lmdb:/etc/postfix/mailman/postfix_vmap",
    "lmtp_host_lookup": "native",
}
LOCAL = {**WIRED, "mydestination": "localhost Lists.example.NET", "relay_domains": ""}
MAILBOX = {
    **WIRED,
    "relay_domains": "",
    "relay_recipient_maps": "",
    "virtual_mailbox_domains": "example.com, lists.example.net",
    "virtual_mailbox_maps": "lmdb:/etc/postfix/mailboxes",
}
DOMAINS = frozenset({"lists.example.net"})
TWO = frozenset({"lists.example.net", "lists.example.org"})
RECIPIENTS = "lmdb:/etc/postfix/mailman/postfix_recipients"


class RunningProcesses(Processes):
    """The processes of a running Postfix."""

    @property
    def master(self) -> int:
        return 1


class Running(Postfix):
    """A running Postfix."""

    @property
    def processes(self) -> Processes:
        return RunningProcesses(self.config_directory, self.queue_directory)


def postfix(
    types: str = "hash btree lmdb cdb", directory: str = "/etc/postfix", **parameters: str
) -> Postfix:
    values = {
        **dict.fromkeys(PARAMETERS, ""),
        "default_database_type": "hash",
        "lmtp_host_lookup": "dns",
        "local_recipient_maps": "proxy:unix:passwd.byname $alias_maps",
        "propagate_unmatched_extensions": "canonical, virtual",
        "recipient_delimiter": "+",
        **parameters,
    }
    return Running(Path(directory), values, values, frozenset(types.split()), version="3.7")


def classes(
    main_cf: Postfix, domains: frozenset[str], mail_hosts: frozenset[str] = frozenset()
) -> Classes:
    """Classify domains like address_classes.classify, for a main.cf without other tables."""

    def named(parameter: str, *, with_maps: bool = True) -> dict[str, bool | None]:
        value = main_cf.parameters[parameter]
        if with_maps and parameter != "virtual_alias_domains":
            value = value.replace(f"lmdb:{MAPS}/postfix_domains", " ".join(domains))
        listed = list(patterns(value, lambda path: ""))
        style = Style.PARENTS if parameter == "relay_domains" else Style.EXACT
        every = domains | mail_hosts
        return {name: decision(name, listed, style, lambda *_: False) for name in every}

    def true(found: dict[str, bool | None]) -> set[str]:
        return {name for name, is_named in found.items() if is_named}

    return Classes(
        domains=domains,
        mail_hosts=mail_hosts,
        named={parameter: true(named(parameter)) for parameter in CLASSES},
        relayed_anyway=true(named("relay_domains", with_maps=False)),
        kept_out={n for n, is_named in named("relay_domains").items() if is_named is False},
    )


def wanted(
    main_cf: Postfix,
    domains: frozenset[str] = DOMAINS,
    mail_hosts: frozenset[str] = frozenset(),
    *,
    hosts: bool = False,
) -> dict[str, Setting]:
    ours = Installation(MAPS, "lmdb", (VOLUME,), hosts_used=hosts)
    listed = settings(main_cf, ours, classes(main_cf, domains, mail_hosts))
    by_parameter = {setting.parameter: setting for setting in listed}
    assert len(by_parameter) == len(listed)
    for setting in listed:
        assert setting.problem.startswith(setting.parameter)
        assert setting.present == main_cf.unexpanded[setting.parameter]
    return by_parameter


def values(main_cf: Postfix, *args: frozenset[str]) -> dict[str, str]:
    return {parameter: setting.wanted for parameter, setting in wanted(main_cf, *args).items()}
