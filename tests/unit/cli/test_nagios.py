"""The output of the monitoring plugin: one line with performance data, and one of four statuses."""

import re

import pytest

from postfix_sync.cli.nagios import State, plugin, render, state_of
from postfix_sync.errors import ConfigError
from postfix_sync.model.destination import Destination
from postfix_sync.model.probe_result import ProbeResult

UP = ProbeResult(Destination("mm1", 8024), True, "rcpt", "250 Ok", 0.01234)
ODD = ProbeResult(Destination("::1", 8024), True, "rcpt", "250 Ok", 0.5, warning="it greets with |")
DOWN = ProbeResult(Destination("mm2", 8024), False, "connect", "", 2.0, "Connection refused")
REFUSES = ProbeResult(
    Destination("mm3", 8024), False, "rcpt", "550 no|pe", 1.0, "RCPT was 550", returned=True
)

FORM = re.compile(
    r"LMTP (OK|WARNING|CRITICAL) - [^|\n]+"
    r"\|('[^'= ]+'=\d+\.\d{4}s;;;0 )+down=\d+;;0;0;\d+(\n[^|\n]+)*"
)
"""The used part of the format in the Monitoring Plugins Development Guidelines."""


@pytest.mark.parametrize(
    ("result", "state", "text", "figures"),
    [
        (
            UP,
            "OK",
            "mm1:8024 up: rcpt: 250 Ok, 0.0123 s",
            "'mm1:8024'=0.0123s;;;0 down=0;;0;0;1",
        ),
        (
            ODD,
            "WARNING",
            "[::1]:8024 up: rcpt: 250 Ok, 0.5000 s; but it greets with /",
            "'[::1]:8024'=0.5000s;;;0 down=0;;0;0;1",
        ),
        (
            DOWN,
            "CRITICAL",
            "mm2:8024 down: connect: Connection refused; mail for it is deferred",
            "'mm2:8024'=2.0000s;;;0 down=1;;0;0;1",
        ),
        (
            REFUSES,
            "CRITICAL",
            "mm3:8024 down: rcpt: RCPT was 550 (550 no/pe); Postfix returns mail for this list",
            "'mm3:8024'=1.0000s;;;0 down=1;;0;0;1",
        ),
    ],
)
def test_one_destination_gives_one_line(
    result: ProbeResult, state: str, text: str, figures: str
) -> None:
    line = render([result])
    assert line.startswith(f"LMTP {state} - {text}")
    assert line.endswith(f"|{figures}")
    assert FORM.fullmatch(line)
    assert "\n" not in line
    assert state_of([result]).name == state


@pytest.mark.parametrize(
    ("results", "headline"),
    [
        ([UP, UP], "LMTP OK - 2 destinations up"),
        ([UP, ODD], "LMTP WARNING - 2 destinations up, with warnings: [::1]:8024"),
        ([UP, ODD, DOWN], "LMTP CRITICAL - 1 of 3 destinations down: mm2:8024"),
    ],
)
def test_several_destinations_give_a_line_each_after_the_headline(
    results: list[ProbeResult], headline: str
) -> None:
    text = render(results)
    assert FORM.fullmatch(text)
    first, *more = text.splitlines()
    assert first.partition("|")[0] == headline
    assert [line.split()[0] for line in more] == [result.destination.endpoint for result in results]


def test_no_destination_is_unknown() -> None:
    assert state_of([]) is State.UNKNOWN


def raising(error: BaseException) -> int:
    raise error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ConfigError("x.yaml:1: bad\nx.yaml:2: bad", "mend it"), "x.yaml:1: bad\nx.yaml:2: bad\n"),
        (KeyError("a|b"), "internal error: KeyError('a/b'); please report this\n"),
        (KeyboardInterrupt(), "interrupted\n"),
    ],
)
def test_error_or_interrupt_is_unknown(
    error: BaseException, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plugin(lambda: raising(error)) == 3
    out, err = capsys.readouterr()
    assert out.startswith(f"LMTP UNKNOWN - {said}")
    assert not err
