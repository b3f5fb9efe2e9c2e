"""The configuration: for each rule, a document that breaks it and the exact message."""

import ast
import os
import re
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import postfix_sync
from postfix_sync.config import reading, schema
from postfix_sync.config.schema import (
    Config,
    GuardSection,
    HostsSection,
    MetricsSection,
    PostfixSection,
    ProbeSection,
    SourceSection,
    SshSection,
)
from postfix_sync.config.sections import keys
from postfix_sync.errors import ConfigError, NotPermitted
from postfix_sync.model.destination import Destination

ONE = "sources: [{path: /srv/mailman_var/data}]\n"

IN_QUOTES = "write it in quotes if it is text"

LEVELS = "'connect', 'lhlo', 'rcpt' or 'off'"

BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n" for old, new in pairwise("abcdefghij")
)
"""Ten lines that expand to ten billion values."""

MERGE_BOMB = "a: &a {x: 1, y: 2}\n" + "".join(
    f"{new}: &{new} {{<<: [{', '.join([f'*{old}'] * 10)}]}}\n"
    for old, new in pairwise("abcdefghij")
)


def load(directory: Path, text: str | bytes) -> Config:
    path = directory / "config.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return reading.load(path)


def problems(directory: Path, text: str | bytes) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(directory, text)
    place = f"{directory}/config.yaml:"
    lines = caught.value.message.split("\n")
    assert all(line.startswith(place) for line in lines)
    return [line.removeprefix(place) for line in lines]


def test_path_of_a_source_is_the_only_required_key(tmp_path: Path) -> None:
    found = load(tmp_path, ONE)
    assert found.sources[0].path == Path("/srv/mailman_var/data")
    assert found.sources[0].name == "mailman_var"
    assert found.sources[0].interval == 60
    assert found.postfix.map_directory == Path("/etc/postfix/mailman")
    assert found.guard.max_removed == 0.5
    assert found.guard.max_size == 512 * 2**20
    assert found.probe.level == "rcpt"


def test_all_options_are_read(tmp_path: Path) -> None:
    found = load(
        tmp_path,
        """
sources:
  - name: lists
    path: /m
    interval: 500ms
    domains: [lists.example.net]
    address: "::1"
    destination: lmtp:[mm]:24
postfix: {config_directory: /p, map_directory: /p/m, map_type: cdb, reload: never}
hosts: {file: /h, chroot: never}
guard: {allow_empty: true, max_removed: 12.5%, max_size: 2 KiB}
probe: {level: off, interval: 1.5m, timeout: 2h}
state_directory: /s
""",
    )
    assert found.sources[0].interval == 0.5
    assert found.sources[0].address == "::1"
    assert found.policy(found.sources[0]).destination == Destination("mm", 24)
    assert found.policy(found.sources[0]).domains == {"lists.example.net"}
    assert found.policy(found.sources[0]).max_removed == 0.125
    assert found.guard.max_size == 2048
    assert (found.probe.level, found.probe.interval, found.probe.timeout) == ("off", 90, 7200)


def test_example_configuration_is_valid() -> None:
    example = Path(__file__).parents[3] / "config.example.yaml"
    assert reading.load(example).sources[0].path == Path("/opt/mailman/var/data")


def test_example_configuration_has_every_option() -> None:
    text = (Path(__file__).parents[3] / "config.example.yaml").read_text()
    sections = (
        SourceSection,
        SshSection,
        PostfixSection,
        HostsSection,
        GuardSection,
        ProbeSection,
        MetricsSection,
        Config,
    )
    for section in sections:
        for key in keys(section):
            assert f" {key}:" in text or f"\n{key}:" in text


@pytest.mark.parametrize(
    ("path", "name"),
    [("/opt/mailman/var/data", "mailman"), ("/srv/a b/data", "a_b"), ("/var/data", "mailman")],
)
def test_source_without_name_is_named_after_its_path(tmp_path: Path, path: str, name: str) -> None:
    assert load(tmp_path, f"sources: [{{path: {path}}}]").sources[0].name == name


def test_source_over_ssh_is_named_after_its_host(tmp_path: Path) -> None:
    found = load(tmp_path, "sources: [{path: /m, ssh: {host: MM.example.net}}]").sources[0]
    assert found.name == "mm.example.net"
    assert found.place == "mm.example.net:/m"
    assert found.interval == 10


def test_ssh_options_are_read(tmp_path: Path) -> None:
    text = "sources: [{path: /m, address: ssh, ssh: {host: mm}}]"
    found = load(tmp_path, text).sources[0]
    assert found.address == "ssh"
    assert found.ssh
    assert (found.ssh.port, found.ssh.user, found.ssh.connect_timeout) == (22, "postfix-sync", 10)
    assert found.ssh.identity == Path("/etc/postfix-sync/id_ed25519")
    assert found.ssh.known_hosts == Path("/etc/postfix-sync/known_hosts")
    assert found.ssh.jump is None


@pytest.mark.parametrize("name", ["mailman", "Mm_1.core-2"])
@pytest.mark.parametrize("engine", ["docker", "podman"])
def test_address_names_a_container_and_its_engine(tmp_path: Path, engine: str, name: str) -> None:
    text = f"sources: [{{path: /m, address: '{engine}:{name}', destination: 'lmtp:[mm]:24'}}]"
    found = load(tmp_path, text).sources[0]
    assert found.container == (engine, name)
    assert found.fixed_address is None


@pytest.mark.parametrize("name", ["", "-a", "a b", "a/b", "a:b", "$(a)", "é"])
def test_invalid_container_name_is_refused(tmp_path: Path, name: str) -> None:
    [problem] = problems(tmp_path, f"sources: [{{path: /m, address: 'docker:{name}'}}]")
    assert "sources[0].address: expected docker:NAME of a container, not" in problem


def test_container_with_ssh_or_numeric_destination_is_refused(tmp_path: Path) -> None:
    text = "sources: [{path: /m, address: 'podman:mm', ssh: {host: mm}}]"
    [problem] = problems(tmp_path, text)
    assert "the container would be on this host, and ssh: names another host" in problem
    text = "sources: [{path: /m, address: 'podman:mm', destination: 'lmtp:[10.0.0.1]:24'}]"
    assert problems(tmp_path, text) == [
        "1: sources[0].destination: expected a host name, because address: names a container"
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bastion", ("bastion", 22, None)),
        ("admin@bastion.example.net", ("bastion.example.net", 22, "admin")),
        ("me@host@bastion:2222", ("bastion", 2222, "me@host")),
        ('"[2001:db8::1]:22"', ("2001:db8::1", 22, None)),
    ],
)
def test_jump_is_parsed_into_host_port_and_user(
    tmp_path: Path, text: str, expected: tuple[str, int, str | None]
) -> None:
    found = load(tmp_path, f"sources: [{{path: /m, ssh: {{host: mm, jump: {text}}}}}]").sources[0]
    assert found.ssh
    assert found.ssh.jump == expected


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        ("{path: /srv/a/var/data}, {path: /srv/b/var/data}", ["a", "b"]),
        ("{path: /a/lists/data}, {path: /b/lists/data}", ["a-lists-data", "b-lists-data"]),
        ("{path: /a/lists}, {path: /x, name: lists}", ["a-lists", "lists"]),
        (
            "{path: /m, ssh: {host: h}}, {path: /m, ssh: {host: h, port: 23}}",
            ["h-22-m", "h-23-m"],
        ),
    ],
)
def test_duplicate_default_names_are_made_unique(
    tmp_path: Path, sources: str, expected: list[str]
) -> None:
    found = load(tmp_path, f"sources: [{sources}]")
    assert [source.name for source in found.sources] == expected


def test_sync_interval_is_the_shortest_of_the_sources(tmp_path: Path) -> None:
    text = "sources: [{path: /m, interval: 5m}, {path: /n, interval: 2m}]"
    assert load(tmp_path, text).interval == 120


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ["1: sources: missing; it is required"]),
        ("[]", ["1: the file: expected a mapping of keys"]),
        ("sources:\n", ["1: sources: expected a valid list"]),
        ("sources: []\n", ["1: sources: expected one source"]),
        ("\n\nsources:\n  - name: x\n", ["4: sources[0].path: missing; it is required"]),
        (
            "sources: [\n",
            ["2: not valid YAML: expected the node content, but found '<stream end>'"],
        ),
        (
            "sources:\n\t- a\n",
            ["2: not valid YAML: found character '\\t' that cannot start any token"],
        ),
        (
            b"sources: \xff\n",
            ["1: not valid YAML: unacceptable character #x00ff: invalid start byte, position 9"],
        ),
        (ONE + "souces: 1\n", ['2: souces: unknown key; did you mean "sources"?']),
        (
            ONE + "probe:\n  lvl: x\n",
            ['3: probe.lvl: unknown key; did you mean "level"?'],
        ),
        (
            ONE + "hosts: {zzz: x}\n",
            ["2: hosts.zzz: unknown key; known here: file, chroot"],
        ),
        (ONE + "guard: 3\n", ["2: guard: expected a mapping of keys"]),
        (ONE + "guard: {}\nguard: {}\n", ["3: guard: duplicate key"]),
        (
            "sources: [{path: /m, path: /n}]",
            ["1: sources[0].path: duplicate key"],
        ),
        (
            "sources: [{path: m}]",
            ['1: sources[0].path: expected an absolute path, not "m"'],
        ),
        (
            "sources: [{path: /m, name: a b}]",
            ['1: sources[0].name: expected letters, digits, dots, dashes, underscores, not "a b"'],
        ),
        (
            "sources: [{path: /m, interval: 60}]",
            ['1: sources[0].interval: expected a duration such as 500ms, 30s, 5m or 1h, not "60"'],
        ),
        (
            "sources: [{path: /m, address: mailman}]",
            ['1: sources[0].address: expected an IP address, not "mailman"'],
        ),
        (
            "sources: [{path: /m, address: 0.0.0.0}]",
            ["1: sources[0].address: expected an address that can be connected to, not 0.0.0.0"],
        ),
        (
            "sources: [{path: /m, destination: mm:24}]",
            ['1: sources[0].destination: expected a next hop lmtp:[HOST]:PORT, not "mm:24"'],
        ),
        (
            "sources: [{path: /m, domains: [a..b, c.d, 3]}]",
            [
                '1: sources[0].domains[0]: "a..b" is not a mail domain',
                "1: sources[0].domains[2]: expected a valid string; 3 is read as a number; "
                + IN_QUOTES,
            ],
        ),
        (
            ONE + "postfix: {map_type: regexp}",
            ["2: postfix.map_type: expected 'auto', 'lmdb', 'hash', 'btree' or 'cdb'"],
        ),
        (
            ONE + "guard: {max_removed: 101%, max_size: 5, allow_empty: maybe}",
            [
                "2: guard.allow_empty: expected a valid boolean",
                "2: guard.max_removed: expected 100% at most, not 101%",
                '2: guard.max_size: expected a size such as 512MiB, not "5"',
            ],
        ),
        (
            "sources: [{path: /m}, {path: n}]",
            ['1: sources[1].path: expected an absolute path, not "n"'],
        ),
        (
            "sources:\n- {path: /m, name: x}\n- path: /n\n  name: x",
            ["4: sources[1].name: sources[0] is called x, too; give each a name of its own"],
        ),
        (
            "sources:\n- path: /m\n  address: ssh",
            [
                "3: sources[0].address: expected an IP address, not ssh: there is no ssh section",
            ],
        ),
        (
            "sources:\n- path: /m\n  ssh: {host: h, jump: b}\n  address: ssh",
            [
                "4: sources[0].address: expected an IP address, not ssh: a bastion is in between",
            ],
        ),
        (
            "sources:\n- path: /m\n  ssh: {hst: h, port: 70000, user: 'a b', jump: 'x:y'}",
            [
                "3: sources[0].ssh.host: missing; it is required",
                '3: sources[0].ssh.hst: unknown key; did you mean "host"?',
                '3: sources[0].ssh.jump: expected [user@]host[:port], not "x:y"',
                "3: sources[0].ssh.port: expected less than or equal to 65535",
                '3: sources[0].ssh.user: expected a user name, not "a b"',
            ],
        ),
        (
            "sources:\n- {pth: 1}\n- 3\n- path: n\n  ssh: {host: h, port: a}\n- path: m\nhosts: no",
            [
                "2: sources[0].path: missing; it is required",
                '2: sources[0].pth: unknown key; did you mean "path"?',
                "3: sources[1]: expected a mapping of keys",
                '4: sources[2].path: expected an absolute path, not "n"',
                "5: sources[2].ssh.port: expected a valid integer",
                '6: sources[3].path: expected an absolute path, not "m"',
                f"7: hosts: expected a mapping of keys; no is read as false; {IN_QUOTES}",
            ],
        ),
        (
            ONE + "generations: yes\nprobe: {level: on, flush: 1}\nhosts: {chroot: off}\n",
            [
                f"2: generations: expected a valid integer; yes is read as true; {IN_QUOTES}",
                "3: probe.flush: expected a valid boolean",
                f"3: probe.level: expected {LEVELS}; on is read as true; {IN_QUOTES}",
                f"4: hosts.chroot: expected 'auto' or 'never'; off is read as false; {IN_QUOTES}",
            ],
        ),
        (ONE + "generations: 0\n", ["2: generations: expected greater than or equal to 1"]),
        (
            "sources: []\nhots: 1\n",
            ["1: sources: expected one source", '2: hots: unknown key; did you mean "hosts"?'],
        ),
        (
            f"sources: [{{path: /m, name: {'x' * 101}}}]",
            ["1: sources[0].name: expected 100 characters at most, not 101"],
        ),
    ],
)
def test_invalid_value_is_reported_with_its_line(
    tmp_path: Path, text: str | bytes, expected: list[str]
) -> None:
    assert problems(tmp_path, text) == expected


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        # Values that raise errors in PyYAML's constructors.
        ("name: !!timestamp now", 'name: "now" is read as a date; ' + IN_QUOTES),
        ("name: !!int ''", 'name: "" is not a number'),
        ("name: !!int x", 'name: "x" is not a number'),
        ("name: !!float x", 'name: "x" is not a number'),
        ("name: !!float ''", 'name: "" is not a number'),
        (
            "name: !!bool x",
            'name: "x" has the tag "!!bool", which means nothing here; write it in quotes',
        ),
        (
            "name: !!null x",
            'name: "x" has the tag "!!null", which means nothing here; write it in quotes',
        ),
        (
            "name: !!binary x",
            'name: "x" has the tag "!!binary", which means nothing here; write it in quotes',
        ),
        ("name: !x y", 'name: "y" has the tag "!x", which means nothing here; write it in quotes'),
        (
            "name: =",
            'name: "=" has the tag "!!value", which means nothing here; write it in quotes',
        ),
        ("name: !!set {a, b}", 'name: the tag "!!set" means nothing here'),
        ("name: !!omap [a: 1]", 'name: the tag "!!omap" means nothing here'),
        (
            "name: !!python/object:os.system {}",
            'name: the tag "!!python/object:os.system" means nothing here',
        ),
        ("name: !!str [a]", 'name: the tag "!!str" means nothing here'),
        # Values that YAML reads as another type.
        (
            "ssh: {host: h, port: 0022}",
            'ssh.port: "0022" is read as 18; write 18, or put it in quotes if it is text',
        ),
        (
            "ssh: {host: h, port: 22:22}",
            'ssh.port: "22:22" is read as 1342; write 1342, or put it in quotes if it is text',
        ),
        (
            "ssh: {host: h, port: 0x16}",
            'ssh.port: "0x16" is read as 22; write 22, or put it in quotes if it is text',
        ),
        (
            "ssh: {host: h, port: 0b1}",
            'ssh.port: "0b1" is read as 1; write 1, or put it in quotes if it is text',
        ),
        (
            "ssh: {host: h, port: 1_000}",
            'ssh.port: "1_000" is read as 1000; write 1000, or put it in quotes if it is text',
        ),
        (
            "interval: 1:30",
            'interval: "1:30" is read as 90; write 90, or put it in quotes if it is text',
        ),
        (
            "interval: .inf",
            'interval: ".inf" is read as inf; write inf, or put it in quotes if it is text',
        ),
        ("name: 2026-11-27", 'name: "2026-11-27" is read as a date; ' + IN_QUOTES),
        ("name: no", f"name: expected a valid string; no is read as false; {IN_QUOTES}"),
        ("name: On", f"name: expected a valid string; On is read as true; {IN_QUOTES}"),
        ("name: null", f"name: expected a valid string; null is read as nothing; {IN_QUOTES}"),
        ("name: 7", f"name: expected a valid string; 7 is read as a number; {IN_QUOTES}"),
        ("name: 1.10", f"name: expected a valid string; 1.10 is read as a number; {IN_QUOTES}"),
        (
            "interval: off",
            'interval: expected a duration such as 500ms, 30s, 5m or 1h, not "False"; off is read',
        ),
        ("domains: [no]", f"domains[0]: expected a valid string; no is read as false; {IN_QUOTES}"),
        # Very large numbers and long texts.
        (
            "ssh: {host: h, port: " + "9" * 5000 + "}",
            f'ssh.port: "{"9" * 80}…" has 5000 digits; ' + IN_QUOTES,
        ),
        (
            "ssh: {host: h, port: " + "9" * 17 + "}",
            "ssh.port: expected less than or equal to 65535",
        ),
        ("name: " + "x" * 500_000, "name: expected 100 characters at most, not 500000"),
        ("x" * 500 + "y: 1", "x" * 80 + ": unknown key; known here: name, path"),
        ('"a\\nb\\x1b": 1', "a\\nb\\x1b: unknown key; known here: name, path"),
        (
            'name: "\\ud800"',
            'name: expected letters, digits, dots, dashes, underscores, not "\\ud800"',
        ),
        # Keys.
        ("1: x", "1: unknown key; known here: name, path"),
        ("no: x", "no: unknown key; known here: name, path"),
        ("? [a]\n  : x", ": expected a name as key, not a list or a mapping"),
        ("<<: 1", "<<: expected a mapping, or a list of mappings"),
        ("<<: [{interval: 1s}, 2]", "<<: expected a mapping, or a list of mappings"),
    ],
)
def test_error_shows_the_value_as_yaml_reads_it(tmp_path: Path, text: str, problem: str) -> None:
    [found] = problems(tmp_path, f"sources:\n- path: /m\n  {text}\n")
    assert found.startswith(f"3: sources[0].{problem}".replace(".:", ":"))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"a: 1\n---\nb: 1\n", "2: not valid YAML: but found another document"),
        (b"a: 1\nb: \0\n", "2: not valid YAML: unacceptable character #x0000"),
        ("a: ü\nb: \x07\n".encode(), "2: not valid YAML: unacceptable character #x0007"),
        (b"a: 1\nb: \xff\n", "2: not valid YAML: unacceptable character #x00ff"),
        (b"a: \xed\xa0\x80\n", "1: not valid YAML: unacceptable character #x00ed"),
        (b"\xff\xfea", "1: not valid YAML: unacceptable character #x0061: truncated data"),
        (b'a: 1\nb: "\\UFFFFFFFF"\n', "2: not valid YAML: it can't be read: "),
        (b"%YAML 1." + b"1" * 5000 + b"\n---\na: 1\n", "1: not valid YAML: it can't be read: "),
        (b"a: 1\nb: *x\n", "2: not valid YAML: found undefined alias 'x'"),
        (
            b"a: 1\nb: &a [*a]\n",
            "2: not valid YAML: an anchor (&) whose content has an alias (*) of it",
        ),
        (
            b"a: &a {<<: *a}\n",
            "1: not valid YAML: an anchor (&) whose content has an alias (*) of it",
        ),
        (b"a: 1\nb: " + b"[" * 20_000, "2: not valid YAML: nested too deeply"),
        (b"a: " + b"{a: " * 100_000, "1: not valid YAML: nested too deeply"),
        (b"- " * 100_000, "1: not valid YAML: nested too deeply"),
        (b"? " * 100_000, "1: not valid YAML: nested too deeply"),
        (BOMB.encode(), "1: not valid YAML: more than 100000 values, aliases included"),
        (MERGE_BOMB.encode(), "1: not valid YAML: more than 100000 values, aliases included"),
        (b"a: !!int [1]", '1: a: the tag "!!int" means nothing here'),
        (b"!!set {a}", '1: the file: the tag "!!set" means nothing here'),
        (b"!!int 7_0", '1: the file: "7_0" is read as 70'),
        (b"no", "1: the file: expected a mapping of keys; no is read as false"),
    ],
)
def test_text_that_is_not_a_configuration_is_reported_with_its_line(
    tmp_path: Path, text: bytes, problem: str
) -> None:
    began = time.process_time()
    found = problems(tmp_path, text)
    assert time.process_time() - began < 20
    assert any(line.startswith(problem) for line in found), found


def test_huge_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has more than 1048576 bytes"):
        load(tmp_path, ONE + "#" * 2**20)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_unicode_encodings_are_read(tmp_path: Path, encoding: str) -> None:
    text = "sources: [{path: /m, domains: [bücher.example]}]"
    assert load(tmp_path, text.encode(encoding)).sources[0].domains == ["bücher.example"]


def test_unambiguous_aliases_merges_and_tags_are_read(tmp_path: Path) -> None:
    found = load(
        tmp_path,
        """
sources:
- &first {path: /a, name: !!str 0022, interval: &often 5s, ssh: &mm {host: mm, port: 23}}
- {<<: *first, path: /b, name: b}
- {path: /c, name: "no", ssh: *mm, interval: *often}
- {<<: [{ssh: {host: x, port: !!int "24"}, path: /x}, *first], name: d}
guard: {allow_empty: yes}
probe: {flush: No}
""",
    )
    assert [(source.name, str(source.path), source.interval) for source in found.sources] == [
        ("0022", "/a", 5),
        ("b", "/b", 5),
        ("no", "/c", 5),
        ("d", "/x", 5),
    ]
    assert [source.ssh.port for source in found.sources if source.ssh] == [23, 23, 23, 24]
    assert (found.guard.allow_empty, found.probe.flush) == (True, False)


def test_problem_in_an_alias_is_reported_for_each_use(tmp_path: Path) -> None:
    text = "sources:\n- path: /a\n  ssh: &mm {hst: x, host: h}\n- path: /b\n  ssh: *mm\n"
    said = "unknown key; did you mean"
    assert [line.partition(said)[0] for line in problems(tmp_path, text)] == [
        "3: sources[0].ssh.hst: ",
        "3: sources[1].ssh.hst: ",
    ]


KEYS = [
    "sources",
    "path",
    "name",
    "ssh",
    "host",
    "port",
    "probe",
    "level",
    "guard",
    "max_size",
    "<<",
]
_scalars = st.sampled_from(
    [
        *(
            "/m",
            "no",
            "off",
            "~",
            "0022",
            "22:22",
            "1_0",
            "2026-11-27",
            "2026-99-99",
            ".inf",
            "1e400",
        ),
        *(
            "''",
            "50%",
            "30s",
            "*a",
            "=",
            "!!int ''",
            "!!timestamp now",
            "!!binary x",
            "&a",
            "? ",
            "- ",
        ),
        *(
            '"\\ud800"',
            '"\\UFFFFFFFF"',
            "lmtp:[x]:" + "9" * 5000,
            "docker:x",
            "::1",
            "٣s",
            "\u2028",
        ),
    ]
) | st.text(max_size=8)
_values: Any = st.recursive(
    _scalars,
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]")
        | st.dictionaries(st.sampled_from(KEYS) | _scalars, inner, max_size=3).map(
            lambda mapping: (
                "{" + ", ".join(f"{key}: {value}" for key, value in mapping.items()) + "}"
            )
        )
        | inner.map(lambda value: f"&a {value}")
    ),
    max_leaves=8,
)
_documents = st.lists(st.tuples(st.sampled_from([*keys(Config), "a"]), _values), max_size=4).map(
    lambda lines: "".join(f"{key}: {value}\n" for key, value in lines)
)


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary()
    | st.text().map(lambda text: text.encode("utf-8", "surrogatepass"))
    | _documents.map(lambda text: text.encode("utf-8", "surrogatepass"))
    | _values.map(
        lambda value: f"sources: [{{path: /m, name: {value}}}]".encode("utf-8", "surrogatepass")
    )
)
@example(b"sources: [{path: /m, destination: 'lmtp:[x]:" + b"9" * 5000 + b"'}]")
@example(b"sources: [{path: /m, ssh: {host: h, jump: 'x:\xd9\xa3'}}]")
def test_any_content_is_a_configuration_or_an_error(tmp_path: Path, content: bytes) -> None:
    try:
        load(tmp_path, content)
    except (ConfigError, NotPermitted) as error:
        lines = error.message.split("\n")
        assert all(line.startswith(f"{tmp_path}/config.yaml:") for line in lines)
        assert all(line.isprintable() for line in lines)


def test_all_problems_are_reported_in_the_order_of_lines(tmp_path: Path) -> None:
    text = "probe:\n  timeout: 3\nsources:\n  - pth: /m\n    address: x\nstate: 1\n"
    assert [line.partition(": ")[0] for line in problems(tmp_path, text)] == [
        "2",
        "4",
        "4",
        "5",
        "6",
    ]


def test_missing_file_is_an_error_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file or directory") as caught:
        reading.load(tmp_path / "missing.yaml")
    assert "one key is enough" in caught.value.hint


def test_commands_in_messages_name_the_configuration_by_absolute_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "my own.yaml"
    path.write_text("sources: [{path: /m}]\n")
    monkeypatch.chdir(tmp_path)
    named = f"postfix-sync -c '{path}' --once --force"
    assert reading.load(path).command("--once", "--force") == named
    assert reading.load(Path(path.name)).command("--once", "--force") == named
    assert reading.load(path).policy(reading.load(path).sources[0]).override == named


def test_commands_in_messages_do_not_name_the_default_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("sources: [{path: /m}]\n")
    monkeypatch.setattr(schema, "DEFAULT_PATH", path)
    monkeypatch.chdir(tmp_path)
    assert reading.load(Path(os.path.relpath(path))).command("resume") == "postfix-sync resume"


def test_no_module_writes_a_command_without_the_configurations_path() -> None:
    """Such a command would lack the -c of a program started with another configuration."""
    package = Path(postfix_sync.__file__).parent
    own = re.compile(r"postfix-sync (--|probe|doctor|setup|status|rollback|resume)")
    found = [
        f"{path.relative_to(package)}: {text}"
        for path in package.rglob("*.py")
        for text in texts(ast.parse(path.read_text()))
        if own.search(text)
    ]
    # For a Policy of no configuration.
    assert found == ["model/source.py: postfix-sync --once --force"]


def texts(tree: ast.AST) -> Iterator[str]:
    """Yield all texts of a module, except docstrings."""
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in docstrings
        ):
            yield node.value
