"""Read the configuration file strictly, and report every problem with its file and line."""

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from postfix_sync.config import strict_yaml
from postfix_sync.config.schema import (
    Config,
    GuardSection,
    HostsSection,
    MetricsSection,
    PostfixSection,
    ProbeSection,
    Section,
    SourceSection,
    SshSection,
)
from postfix_sync.config.strict_yaml import At, Document, NotYaml, dotted
from postfix_sync.errors import ConfigError, NotPermitted, why
from postfix_sync.system.files import denied_hint, open_file

SIZE_AT_MOST = 2**20
"""Bytes of a configuration file at most: 20,000 domains, which PyYAML reads in ten seconds."""


_SECTIONS: dict[tuple[str, ...], type[Section]] = {
    (): Config,
    ("sources",): SourceSection,
    ("sources", "ssh"): SshSection,
    ("postfix",): PostfixSection,
    ("hosts",): HostsSection,
    ("guard",): GuardSection,
    ("probe",): ProbeSection,
    ("metrics",): MetricsSection,
}


def load(path: Path) -> Config:
    """Read and validate the configuration file.

    Raises:
        ConfigError: the file can't be read or is invalid; each problem has a line of its own.
        NotPermitted: the system denies access to the file.
    """
    content = _read(path)
    try:
        document = strict_yaml.load(content)
    except NotYaml as error:
        raise ConfigError(f"{path}:{error.line}: not valid YAML: {error.problem}") from None
    problems = set(document.problems)
    try:
        config = Config.model_validate({} if document.value is None else document.value)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        problems |= {_problem(e, document) for e in errors if not _is_reported(e, document)}
    else:
        problems |= {
            (_line(at, document), f"{dotted(at)}: {text}") for at, text in _contradictions(config)
        }
    if problems:
        raise ConfigError(
            "\n".join(f"{path}:{line}: {problem}" for line, problem in sorted(problems)),
            "every key with its default: man postfix-sync.yaml, or config.example.yaml",
        )
    config._path = path
    return config


def _contradictions(config: Config) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yield the problems of keys that are valid alone, but not together: a key's path, and why."""
    names: dict[str, int] = {}
    for number, source in enumerate(config.sources):
        first = names.setdefault(source.name, number)
        if first != number:
            yield (
                ("sources", number, "name"),
                f"sources[{first}] is called {source.name}, too; give each a name of its own",
            )
        if source.address == "ssh" and (source.ssh is None or source.ssh.jump):
            unseen = "a bastion is in between" if source.ssh else "there is no ssh section"
            yield ("sources", number, "address"), f"expected an IP address, not ssh: {unseen}"
        if source.container:
            yield from _contradictions_in_container(number, source)


def _contradictions_in_container(
    number: int, source: SourceSection
) -> Iterator[tuple[tuple[str | int, ...], str]]:
    if source.ssh:
        elsewhere = "the container would be on this host, and ssh: names another host"
        text = f"expected an IP address or ssh: {elsewhere}"
        yield ("sources", number, "address"), text
    if source.destination and not source.destination.is_name:
        text = "expected a host name, because address: names a container"
        yield ("sources", number, "destination"), text


def _read(path: Path) -> bytes:
    try:
        with open_file(path) as file:
            content = file.read(SIZE_AT_MOST + 1)
    except PermissionError as error:
        raise NotPermitted(f"{path}: {why(error)}", denied_hint(path, error)) from None
    except OSError as error:
        raise ConfigError(
            f"{path}: {why(error)}: postfix-sync can't run without a configuration",
            "one key is enough: sources: [{path: /srv/mailman_var/data}];"
            " name another file with -c FILE",
        ) from None
    if len(content) > SIZE_AT_MOST:
        raise ConfigError(f"{path}: has more than {SIZE_AT_MOST} bytes, too many to be read")
    return content


def _is_reported(found: Any, document: Document) -> bool:
    """Return whether one of pydantic's findings is about a value whose problem is known already."""
    at: At = found["loc"]
    return any(at[:length] in document.refused for length in range(len(at) + 1))


def _problem(found: Any, document: Document) -> tuple[int, str]:
    """Return the line and the text of one of pydantic's findings (a dict)."""
    at: At = found["loc"]
    text = found["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
    match found["type"]:
        case "missing":
            text = "missing; it is required"
        case "extra_forbidden":
            text = "unknown key" + _did_you_mean(at)
        case "model_type":
            text = "expected a mapping of keys"
        case "too_short":
            text = "expected one source"
    note = document.notes.get(at)
    if note and (found["type"] == "string_type" or not note.is_number):
        text += f"; {note.text}"
    return _line(at, document), f"{dotted(at) or 'the file'}: {text}"


def _line(at: At, document: Document) -> int:
    """Return the line of a key, or of the closest section around it that has a line."""
    while at not in document.lines:
        at = at[:-1]
    return document.lines[at]


def _did_you_mean(at: At) -> str:
    section = _SECTIONS.get(tuple(part for part in at[:-1] if isinstance(part, str)))
    keys = list(section.model_fields) if section else []
    close = difflib.get_close_matches(str(at[-1])[:80], keys, n=1)
    return f'; did you mean "{close[0]}"?' if close else f"; known here: {', '.join(keys)}"
