"""The manual pages and the completions say what the program can do: all of it, and nothing else."""

import argparse
import dataclasses
import re
import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from postfix_sync.cli import command_line
from postfix_sync.config import sections, values
from postfix_sync.config.reading import load
from postfix_sync.config.schema import Config
from postfix_sync.errors import Exit

ROOT = Path(__file__).parents[2]
COMMANDS_PAGE = ROOT / "docs/man/postfix-sync.8"
KEYS_PAGE = ROOT / "docs/man/postfix-sync.yaml.5"
ZSH = ROOT / "completions/_postfix-sync"

PARSER = command_line._parser()
SUBPARSERS: dict[str, argparse.ArgumentParser] = next(
    action.choices for action in PARSER._actions if isinstance(action, argparse._SubParsersAction)
)
COMMON = {text for action in command_line._common()._actions for text in action.option_strings} | {
    "-h",
    "--help",
}
OF_ONCE = {"--dry-run", "--force"}
"""What goes with --once; to argparse these are options beside it."""

KINDS: dict[Any, str] = {
    values._duration: r"\fIDURATION\fR",
    values._size: r"\fISIZE\fR",
    values._percent: r"\fIPERCENT\fR",
    values._absolute: r"\fIPATH\fR",
    values._nameable: r"\fIPATH\fR",
    values._name: r"\fINAME\fR",
}
"""How yaml(5) calls the kinds of values that the page defines, by the function that reads one."""


def plain(roff: str) -> str:
    """A line of roff as it is read: without its macro and its fonts."""
    if macro := re.match(r"\.([A-Z]{1,2}) (.*)", roff):
        words = [quoted or bare for quoted, bare in re.findall(r'"([^"]*)"|([^"\s]+)', macro[2])]
        alternating = macro[1] in {"BR", "BI", "RB", "RI", "IR", "IB"}  # no blank in between
        roff = ("" if alternating else " ").join(words)
    return re.sub(r"\\f[BIRP]", "", roff).replace(r"\-", "-")


def headed(page: Path) -> Iterator[tuple[str, str, list[str]]]:
    """Each section and subsection of a page: its heading, that below it, and its lines."""
    section = below = ""
    lines: list[str] = []
    for line in page.read_text().splitlines():
        if line.startswith((".SH", ".SS")):
            yield section, below, lines
            lines = []
            section, below = (plain(line), "") if line.startswith(".SH") else (section, plain(line))
        else:
            lines.append(line)
    yield section, below, lines


def tags(lines: list[str]) -> list[str]:
    """What is explained in a section, as it is written in roff."""
    return [after for before, after in pairwise(lines) if before == ".TP"]


def section(page: Path, name: str) -> list[str]:
    return next(lines for heading, below, lines in headed(page) if (heading, below) == (name, ""))


def options(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", text))


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    return {text for action in parser._actions for text in action.option_strings}


OPTION_TAGS = {
    below.partition(":")[0]: [plain(tag) for tag in tags(lines)]
    for heading, below, lines in headed(COMMANDS_PAGE)
    if heading == "COMMANDS" and below
}
"""The options that are explained with each command."""

COMMON_TAGS = [plain(tag) for tag in tags(section(COMMANDS_PAGE, "OPTIONS"))]


def test_all_commands_are_explained_and_no_others() -> None:
    assert OPTION_TAGS.keys() == SUBPARSERS.keys() | {"(none)", "--once"}
    assert not OPTION_TAGS["(none)"]


@pytest.mark.parametrize("command", SUBPARSERS)
def test_all_options_of_a_command_are_explained_with_it(command: str) -> None:
    explained = options(" ".join(OPTION_TAGS[command]))
    assert explained == options_of(SUBPARSERS[command]) - COMMON


def test_all_other_options_are_explained() -> None:
    assert options(" ".join(COMMON_TAGS)) == COMMON | {"--version"}
    assert options(" ".join(OPTION_TAGS["--once"])) == OF_ONCE
    assert options_of(PARSER) == COMMON | OF_ONCE | {"--version", "--once"}


def test_options_have_the_values_that_they_are_explained_with() -> None:
    explained = [*COMMON_TAGS, *(tag for some in OPTION_TAGS.values() for tag in some)]
    for parser in (PARSER, *SUBPARSERS.values()):
        for action in parser._actions:
            if action.option_strings and action.nargs != 0:
                value = " | ".join(action.choices) if action.choices else str(action.metavar)
                wanted = f"{', '.join(action.option_strings)} {value}"
                assert wanted in explained


def test_the_synopsis_has_each_command_with_its_options() -> None:
    text = plain("\n".join(section(COMMANDS_PAGE, "SYNOPSIS")))
    lines = {
        one.split()[0] if one.split() else "": one for one in re.split(r"\n?postfix-sync ", text)
    }
    assert {name for name in lines if name.isalpha()} == SUBPARSERS.keys()
    for name, parser in SUBPARSERS.items():
        of_all = lines[name].partition("COMMON:\n")[0]
        assert options(of_all) == options_of(parser) - COMMON
        for action in parser._actions:
            if not action.option_strings:
                assert str(action.metavar) in of_all
    assert options(lines["--once"]) == OF_ONCE | {"--once"}
    assert options(text.partition("COMMON:\n")[2]) == {"-c", "-v", "-q", "--log-format"}


def test_exit_statuses_are_those_of_the_program() -> None:
    explained = [int(plain(tag)) for tag in tags(section(COMMANDS_PAGE, "EXIT STATUS"))]
    assert explained == sorted(Exit)


def test_signals_are_those_of_the_daemon() -> None:
    explained = plain(" ".join(map(plain, tags(section(COMMANDS_PAGE, "SIGNALS")))))
    known = re.findall(r"signal\.(SIG\w+)", (ROOT / "postfix_sync/daemon/daemon.py").read_text())
    assert set(re.findall(r"SIG\w+", explained)) == set(known)


def test_environment_variables_are_those_that_are_read() -> None:
    explained = " ".join(map(plain, tags(section(COMMANDS_PAGE, "ENVIRONMENT"))))
    read = {
        name
        for path in (ROOT / "postfix_sync").rglob("*.py")
        for name in re.findall(r'environ(?:ment)?\.get\("(\w+)"', path.read_text())
    }
    assert set(explained.replace(",", "").split()) == read | {"COLUMNS"}  # which shutil reads


def test_the_examples_are_commands() -> None:
    examples = [plain(line).strip() for line in section(COMMANDS_PAGE, "EXAMPLES")]
    typed = [shlex.split(one, comments=True) for one in examples if one.startswith("postfix-sync ")]
    for words in typed:
        PARSER.parse_args(words[1:])
    assert {words[1] for words in typed} >= SUBPARSERS.keys()


# The configuration: its sections by their headings, each key with how it is written and explained.


def inner_types(kind: Any) -> Iterator[Any]:
    """A type, and all that it is made of."""
    yield kind
    for inner in get_args(kind):
        yield from inner_types(inner)


def headings(model: Any) -> Iterator[tuple[str, Any]]:
    """The keys below a section that have sections, with these."""
    for key, field in sections.keys(model).items():
        for inner in inner_types(field.type):
            if getattr(inner, "__module__", "") == Config.__module__:
                yield key, inner
                yield from headings(inner)


HEADINGS = dict(headings(Config))


def keys() -> dict[tuple[str, str], tuple[str, str]]:
    """By section and key: what the tag says after the key, and all that the text says."""
    found = {}
    for heading, below, lines in headed(KEYS_PAGE):
        if heading != "KEYS" or not below:
            continue
        name = below.partition(":")[0]
        for block in re.split(r"^\.TP\n(?=\\fB[a-z_]+:\\fR)", "\n".join(lines), flags=re.MULTILINE)[
            1:
        ]:
            tag, _, text = block.partition("\n")
            key, _, kind = tag.removeprefix(r"\fB").partition(r":\fR")
            found["" if name == "Other keys" else name, key] = kind.strip(), text
    return found


KEYS = keys()
FIELDS: dict[tuple[str, str], dataclasses.Field[Any]] = {
    (name, key): field
    for name, model in HEADINGS.items()
    for key, field in sections.keys(model).items()
} | {
    ("", key): field
    for key, field in sections.keys(Config).items()
    if key not in HEADINGS
}  # fmt: skip


def test_all_keys_are_explained_and_no_others() -> None:
    assert KEYS.keys() == FIELDS.keys()


def documented_defaults(text: str) -> list[Any]:
    """The values that stand in bold after `Default:`."""
    line = next(one for one in text.splitlines() if one.startswith("Default:"))
    return [yaml.safe_load(plain(one)) for one in re.findall(r"\\fB(.*?)\\fR", line)]


def configured(at: str, key: str, *given: Any, ssh: bool = False) -> Any:
    """What the program makes of a key, given or left out."""
    source: dict[str, Any] = {"path": "/data"}
    if ssh or at == "ssh":
        source["ssh"] = {"host": "mm.example.net"}
    document: dict[str, Any] = {name: {} for name in HEADINGS if name not in {"sources", "ssh"}}
    document["sources"] = [source]
    places = {**document, "": document, "sources": source, "ssh": source.get("ssh")}
    for value in given:
        places[at][key] = value
    found = sections.read(Config, document)
    first = found.sources[0]
    return getattr({**vars(found), "": found, "sources": first, "ssh": first.ssh}[at], key)


@pytest.mark.parametrize(("at", "key"), FIELDS)
def test_the_default_of_a_key_is_that_of_the_program(at: str, key: str) -> None:
    text = KEYS[at, key][1]
    field = FIELDS[at, key]
    assert ("\nRequired." in f"\n{text}") == sections.is_required(field)
    if sections.is_required(field) or (at, key) == ("sources", "name"):
        return
    if "Default: none" in text:
        assert configured(at, key) is None
        return
    first, *others = documented_defaults(text)
    assert configured(at, key, first) == configured(at, key)
    if (at, key) == ("sources", "interval"):
        assert [configured(at, key, other, ssh=True) for other in others] == [
            configured(at, key, ssh=True)
        ]
    else:
        assert not others


def test_the_name_of_a_source_is_made_as_it_says() -> None:
    text = plain(" ".join(map(plain, KEYS["sources", "name"][1].splitlines())))
    assert "for /opt/mailman/var/data it is" in text
    assert r"\(lqmailman\(rq" in text
    made = sections.read(Config, {"sources": [{"path": "/opt/mailman/var/data"}]})
    assert made.sources[0].name == "mailman"


@pytest.mark.parametrize(("at", "key"), FIELDS)
def test_the_kind_of_a_key_is_that_of_the_program(at: str, key: str) -> None:
    kind = KEYS[at, key][0]
    match reader(FIELDS[at, key]):
        case values.Choice(words):
            assert kind == " | ".join(words)
        case values._boolean:
            assert kind == "true | false"
        case values.WholeNumber(least, most):
            assert kind == r"\fINUMBER\fR"
            assert str(least) in KEYS[at, key][1]
            assert str(most) in KEYS[at, key][1]
        case values.Text(check) if check in KINDS:
            assert kind == KINDS[check]
        case other if other in KINDS:
            assert kind == KINDS[other]


def reader(field: dataclasses.Field[Any]) -> Any:
    """The function that reads a value of this field."""
    return next(
        (kind.__metadata__[0] for kind in inner_types(field.type) if hasattr(kind, "__metadata__")),
        None,
    )


def test_the_examples_are_configurations(tmp_path: Path) -> None:
    text = "\n".join(section(KEYS_PAGE, "EXAMPLES"))
    examples = re.findall(r"^\.EX\n(.*?)^\.EE$", text, flags=re.MULTILINE | re.DOTALL)
    for example in examples:
        path = tmp_path / "config.yaml"
        path.write_text(plain(example))
        load(path)
    assert len(examples) == 3


# The zsh completion describes options; what both shells offer is tested with them.


def test_zsh_describes_commands_and_options_as_help_does() -> None:
    text = ZSH.read_text()
    described = set(re.findall(r"(--[a-z-]+)=?'?(?:\}')?\[([^]]*)\]", text))
    helped = {
        (action.option_strings[-1], action.help)
        for parser in (PARSER, *SUBPARSERS.values())
        for action in parser._actions
        if action.option_strings
    }
    assert described == helped
    commands = set(re.findall(r"^    [\"'](\w+):(.*)[\"']$", text, flags=re.MULTILINE))
    action = next(one for one in PARSER._actions if isinstance(one, argparse._SubParsersAction))
    assert commands == {(one.dest, one.help) for one in action._choices_actions}
