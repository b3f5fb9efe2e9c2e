"""Read the configuration file strictly, and report every problem with its file and line."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from postfix_sync.config import sections, strict_yaml
from postfix_sync.config.schema import Config, SourceSection
from postfix_sync.config.sections import Invalid, Problem
from postfix_sync.config.strict_yaml import At, Document, NotYaml, dotted
from postfix_sync.config.values import NOT_TEXT
from postfix_sync.errors import ConfigError, NotPermitted, why
from postfix_sync.system.files import denied_hint, open_file

SIZE_AT_MOST = 2**20
"""Bytes of a configuration file at most: 20,000 domains, which PyYAML reads in ten seconds."""


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
        config = sections.read(Config, {} if document.value is None else document.value)
        found = list(_contradictions(config))
    except Invalid as error:
        found = [problem for problem in error.problems if not _is_reported(problem, document)]
    problems |= {_located(problem, document) for problem in found}
    if problems:
        raise ConfigError(
            "\n".join(f"{path}:{line}: {problem}" for line, problem in sorted(problems)),
            "every key with its default: man postfix-sync.yaml, or config.example.yaml",
        )
    return replace(config, path=path)


def _contradictions(config: Config) -> Iterator[Problem]:
    """Yield the problems of keys that are valid alone, but not together."""
    names: dict[str, int] = {}
    for number, source in enumerate(config.sources):
        at = ("sources", number)
        first = names.setdefault(source.name, number)
        if first != number:
            text = f"sources[{first}] is called {source.name}, too; give each a name of its own"
            yield Problem((*at, "name"), text)
        if source.address == "ssh" and (source.ssh is None or source.ssh.jump):
            unseen = "a bastion is in between" if source.ssh else "there is no ssh section"
            yield Problem((*at, "address"), f"expected an IP address, not ssh: {unseen}")
        if source.container:
            yield from _contradictions_in_container(at, source)


def _contradictions_in_container(at: At, source: SourceSection) -> Iterator[Problem]:
    if source.ssh:
        elsewhere = "the container would be on this host, and ssh: names another host"
        yield Problem((*at, "address"), f"expected an IP address or ssh: {elsewhere}")
    if source.destination and not source.destination.is_name:
        text = "expected a host name, because address: names a container"
        yield Problem((*at, "destination"), text)


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


def _is_reported(problem: Problem, document: Document) -> bool:
    """Return whether a problem is about a value whose problem is known already."""
    at = problem.at
    return any(at[:length] in document.refused for length in range(len(at) + 1))


def _located(problem: Problem, document: Document) -> tuple[int, str]:
    """Return the line and the text of a problem."""
    at, text = problem
    note = document.notes.get(at)
    if note and (text == NOT_TEXT or not note.is_number):
        text += f"; {note.text}"
    return _line(at, document), f"{dotted(at) or 'the file'}: {text}"


def _line(at: At, document: Document) -> int:
    """Return the line of a key, or of the closest section around it that has a line."""
    while at not in document.lines:
        at = at[:-1]
    return document.lines[at]
