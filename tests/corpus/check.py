"""Take a host through a shape, and compare what is wrong with what is known to be wrong."""

import os
import shutil
from collections.abc import Iterable, Mapping

from tests.conftest import Measured, need
from tests.corpus.examination import HEAD, take_through
from tests.corpus.host import CorpusHost
from tests.corpus.known import KNOWN
from tests.corpus.shape import Shape
from tests.corpus.shapes import SHAPES

ALL = [(shape, list_class) for shape in SHAPES for list_class in shape.classes]
"""Every shape in each of its classes."""


def chosen(names: Iterable[str]) -> list[tuple[Shape, str]]:
    """Return these shapes, each in its first class."""
    by_name = {shape.name: shape for shape in SHAPES}
    return [(by_name[name], by_name[name].classes[0]) for name in names]


def name_of(shape: Shape, list_class: str) -> str:
    """Return the name of a test."""
    return f"{shape.name}, {list_class}"


def need_postfix() -> None:
    """Skip the test, in CI fail, where Postfix or one of its map types is not installed."""
    need(os.geteuid() == 0, "root")
    need(shutil.which("smtp-sink", path="/usr/sbin:/usr/bin"), "Postfix")


def need_map_types(host: CorpusHost, shape: Shape) -> None:
    """Skip the test, in CI fail, where Postfix lacks a map type of the shape."""
    known = host.postfix.command("postconf", "-m").split()
    for kind in {name.partition(":")[0] for name in shape.tables} & {"pcre", "sqlite"}:
        need(kind in known, f"a Postfix with {kind} maps")


def check_shape(host: CorpusHost, shape: Shape, list_class: str, measured: Measured) -> None:
    """Fail if a phase is wrong that is not known to be, or if a known one is right."""
    need_map_types(host, shape)
    result = take_through(host, shape, list_class)
    name = name_of(shape, list_class)
    measured(name, result.row, f"{name:<46} | {result.row}")
    known = {
        phase: reason
        for (*each, phase), reason in KNOWN.items()
        if each == [shape.name, list_class]
    }
    complaint = compare(result.wrong, known)
    assert not complaint, f"{name}:\n{HEAD}\n{result.row}\n{complaint}"


def compare(wrong: Mapping[str, str], known: Mapping[str, str]) -> str:
    """Say which phases are wrong and not known to be, and which are known and right; else nothing.

    Both have the phase as key; the value is what is wrong, and why.
    """
    lines = [f"{phase}: {text}" for phase, text in wrong.items() if phase not in known]
    lines += [
        f"{phase}: right now, so remove it from tests/corpus/known.py: {reason}"
        for phase, reason in known.items()
        if phase not in wrong
    ]
    return "\n".join(lines)
