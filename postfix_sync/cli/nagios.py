"""`probe --nagios`: print the result as the Monitoring Plugins Development Guidelines require.

The first line on standard output has the state and, after a bar, performance data; for several
destinations, a line for each follows. The exit status is always 0, 1, 2 or 3: an invalid command
line or configuration is UNKNOWN, as is a bug, because monitoring systems do not know sysexits(3)
and do not show tracebacks.
"""

import contextlib
import io
from collections.abc import Callable, Sequence
from enum import IntEnum

from postfix_sync.errors import SyncError, out_of_memory
from postfix_sync.model.probe_result import ProbeResult
from postfix_sync.probe.notice import consequence

WITHIN = 8.0
"""Seconds in which all probes end: check_nrpe(8) gives up after ten, and its alert would then not
name the destination that is down."""


class State(IntEnum):
    """Exit statuses of a plugin (Monitoring Plugins Development Guidelines)."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3


def state_of(results: Sequence[ProbeResult]) -> State:
    """Return CRITICAL if a destination is down, WARNING if one is odd, UNKNOWN without results."""
    if not results:
        return State.UNKNOWN
    if not all(result.up for result in results):
        return State.CRITICAL
    return State.WARNING if any(result.warning for result in results) else State.OK


def render(results: Sequence[ProbeResult]) -> str:
    """Render the results for at least one destination as the output of a plugin."""
    figures = [f"'{result.destination.endpoint}'={result.seconds:.4f}s;;;0" for result in results]
    down = sum(not result.up for result in results)
    figures.append(f"down={down};;0;0;{len(results)}")
    lines = [_line(result) for result in results]
    if len(lines) > 1:
        lines.insert(0, _summary(results))
    return "\n".join([f"{_headline(state_of(results), lines[0])}|{' '.join(figures)}", *lines[1:]])


def plugin(command: Callable[[], int]) -> int:
    """Run `command`, print any error as a plugin's output, and return the exit status."""
    printed = io.StringIO()
    try:
        # Monitoring systems drop standard error, or append it to the plugin's output.
        with contextlib.redirect_stderr(printed):
            return command()
    except SystemExit as end:  # argparse: --help, or a usage error, which is on the last line
        if not end.code:
            raise
        problem = (printed.getvalue().splitlines() or [str(end.code)])[-1]
    except SyncError as error:
        problem = "\n".join([error.message, *([f"hint: {error.hint}"] if error.hint else [])])
    except KeyboardInterrupt:
        problem = "interrupted"
    except MemoryError:
        problem = out_of_memory("postfix-sync").message
    except Exception as bug:  # noqa: BLE001 - monitoring systems do not show tracebacks
        problem = f"internal error: {bug!r}; please report this"
    print(_headline(State.UNKNOWN, problem))  # noqa: T201 - the command's answer
    return State.UNKNOWN


def _headline(state: State, text: str) -> str:
    return f"LMTP {state.name} - {_plain(text)}"


def _summary(results: Sequence[ProbeResult]) -> str:
    if down := [result.destination.endpoint for result in results if not result.up]:
        return f"{len(down)} of {len(results)} destinations down: {', '.join(down)}"
    if warned := [result.destination.endpoint for result in results if result.warning]:
        return f"{len(results)} destinations up, with warnings: {', '.join(warned)}"
    return f"{len(results)} destinations up"


def _line(result: ProbeResult) -> str:
    """Render the result for one destination as a line."""
    about = result.destination.endpoint
    if not result.up:
        reply = f" ({result.reply})" if result.reply else ""
        text = f"{about} down: {result.phase}: {result.error}{reply}; {consequence(result)}"
    else:
        warning = f"; but {result.warning}" if result.warning else ""
        text = f"{about} up: {result.phase}: {result.reply}, {result.seconds:.4f} s{warning}"
    return _plain(text)


def _plain(text: str) -> str:
    """Replace the bar in a text: it would begin the performance data."""
    return text.replace("|", "/")
