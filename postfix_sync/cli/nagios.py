"""`probe --nagios`: what a monitoring system runs, and reads, as the Monitoring Plugins have it.

One line on standard output says how things stand, and after a bar gives figures; for several
destinations a line each follows. The exit status is 0, 1, 2 or 3. That holds whatever happens: a
command line or a configuration that can't be used is UNKNOWN, as is a bug, because 78 or a
traceback would mean nothing to who is to be woken.
"""

import asyncio
import contextlib
import io
from collections.abc import Callable, Sequence
from enum import IntEnum

from postfix_sync.errors import SyncError, out_of_memory
from postfix_sync.model import ProbeResult
from postfix_sync.probe.lmtp import consequence

WITHIN = 8.0
"""Seconds in which all probes end: check_nrpe(8) gives up after ten, and then nobody is told what
is down."""


class State(IntEnum):
    """Exit statuses of a plugin (Monitoring Plugins Development Guidelines)."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3


def state_of(results: Sequence[ProbeResult]) -> State:
    """CRITICAL where a destination is down, WARNING where one is odd, UNKNOWN without any."""
    if not results:
        return State.UNKNOWN
    if not all(result.up for result in results):
        return State.CRITICAL
    return State.WARNING if any(result.warning for result in results) else State.OK


def render(results: Sequence[ProbeResult]) -> str:
    """The answer for some destinations, one at least."""
    figures = [f"'{result.destination.endpoint}'={result.seconds:.4f}s;;;0" for result in results]
    down = sum(not result.up for result in results)
    figures.append(f"down={down};;0;0;{len(results)}")
    lines = [_line(result) for result in results]
    if len(lines) > 1:
        lines.insert(0, _summary(results))
    return "\n".join([f"{_headline(state_of(results), lines[0])}|{' '.join(figures)}", *lines[1:]])


def plugin(command: Callable[[], int]) -> int:
    """Runs `command` so that whatever ends it is told as a plugin tells it; the exit status."""
    said = io.StringIO()
    try:
        # What comes on standard error is lost on a monitoring system, and may be taken for more.
        with contextlib.redirect_stderr(said):
            return command()
    except SystemExit as end:  # argparse: --help, or a usage error, said on the last line
        if not end.code:
            raise
        problem = (said.getvalue().splitlines() or [str(end.code)])[-1]
    except SyncError as error:
        problem = "\n".join([error.message, *([f"hint: {error.hint}"] if error.hint else [])])
    except (KeyboardInterrupt, asyncio.CancelledError):
        problem = "interrupted"
    except MemoryError:
        problem = out_of_memory("postfix-sync").message
    except Exception as bug:  # noqa: BLE001 - nobody reads a traceback there
        problem = f"unexpected: {bug!r}; please report it"
    print(_headline(State.UNKNOWN, problem))  # noqa: T201 - the command's answer
    return State.UNKNOWN


def _headline(state: State, text: str) -> str:
    return f"LMTP {state.name} - {_plain(text)}"


def _summary(results: Sequence[ProbeResult]) -> str:
    if down := [result.destination.endpoint for result in results if not result.up]:
        return f"{len(down)} of {len(results)} destinations down: {', '.join(down)}"
    if odd := [result.destination.endpoint for result in results if result.warning]:
        return f"{len(results)} destinations up, worth a look: {', '.join(odd)}"
    return f"{len(results)} destinations up"


def _line(result: ProbeResult) -> str:
    """One destination on a line."""
    about = result.destination.endpoint
    if not result.up:
        said = f" ({result.reply})" if result.reply else ""
        text = f"{about} down: {result.phase}: {result.error}{said}; {consequence(result)}"
    else:
        odd = f"; but {result.warning}" if result.warning else ""
        text = f"{about} up: {result.phase}: {result.reply}, {result.seconds:.4f} s{odd}"
    return _plain(text)


def _plain(text: str) -> str:
    """Without the character that begins the figures."""
    return text.replace("|", "/")
