"""The head of the table that `make corpus` prints: its rows follow, as what was measured."""

import pytest

from tests.corpus.examination import HEAD


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the head of the table."""
    terminalreporter.section("corpus; ! is wrong, known or not")
    terminalreporter.write_line(HEAD)
