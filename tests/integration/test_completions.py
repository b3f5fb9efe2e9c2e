"""Completions in bash and zsh, as these shells compute them when a user presses Tab."""

import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import postfix_sync
from tests.conftest import need
from tests.parts.shells import bash_offers, zsh_offers
from tests.unit.test_manual import OF_ONCE, PARSER, SUBPARSERS, options_of

Offers = Callable[[str], list[str]]


def in_bash(line: str) -> list[str]:
    """Split the line into words as readline does; the last word is to be completed."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="=:")
    lexer.whitespace_split = True
    words = list(lexer)
    return bash_offers(*words, *([""] if line.endswith(" ") else []))


@pytest.fixture(params=["bash", pytest.param("zsh", marks=pytest.mark.slow)])
def offers(request: pytest.FixtureRequest, tmp_path: Path) -> Offers:
    """A function that returns a shell's completions for a line."""
    need(shutil.which(request.param), request.param)
    if request.param == "bash":
        return in_bash
    home = tmp_path / "zsh"
    home.mkdir()
    return lambda line: zsh_offers(line, home)


@pytest.fixture
def configuration(tmp_path: Path) -> Path:
    """A configuration, and the files of a daemon in its state directory."""
    state = tmp_path / "state"
    (state / "generations").mkdir(parents=True)
    for number in ("7", "12"):
        (state / "generations" / f"{number}.json.gz").touch()
    (state / "generations" / ".13.json.gz.postfix-sync").touch()
    (state / "status.json").write_text(STATUS)
    path = tmp_path / "other.yaml"
    path.write_text(f"sources:\n- path: /data\nstate_directory: '{state}'   # not in /var\n")
    return path


STATUS = """{
  "sources": {
    "lists": {
    }
  },
  "destinations": {
    "mailman-test:8024": {
      "up": true
    },
    "$(touch owned):1": {
    },
    "[2001:db8::1]:8024": {
    }
  },
  "clusters": {
    "mm": {
    }
  }
}
"""


def test_commands_are_completed(offers: Offers) -> None:
    assert set(offers("postfix-sync ")) == SUBPARSERS.keys()
    assert set(offers("postfix-sync -v ")) == SUBPARSERS.keys()
    assert set(offers("postfix-sync -c doctor r")) == {"rollback", "resume"}


def test_options_without_a_command_are_completed(offers: Offers) -> None:
    assert set(offers("postfix-sync -")) == options_of(PARSER)
    assert offers("postfix-sync --once --d") == ["--dry-run"]
    assert not SUBPARSERS.keys() & set(offers("postfix-sync --once "))
    assert options_of(PARSER) >= OF_ONCE


@pytest.mark.parametrize("command", SUBPARSERS)
def test_options_of_a_command_are_completed(offers: Offers, command: str) -> None:
    assert set(offers(f"postfix-sync {command} -")) == options_of(SUBPARSERS[command])


def test_fixed_values_of_options_are_completed(offers: Offers) -> None:
    assert offers("postfix-sync --log-format ") == ["text", "json"]
    assert offers("postfix-sync status --log-format j") == ["json"]
    level = next(action for action in SUBPARSERS["probe"]._actions if action.dest == "level")
    assert level.choices
    for line in ("postfix-sync probe --level ", "postfix-sync -q probe --level="):
        assert set(offers(line)) == set(level.choices)


def test_configuration_option_completes_files(offers: Offers, configuration: Path) -> None:
    typed = str(configuration).removesuffix("er.yaml")
    for option in ("-c ", "--config ", "--config="):
        (offered,) = offers(f"postfix-sync doctor {option}{typed}")
        assert Path(offered).name == configuration.name


def test_probe_completes_destinations_of_the_configuration(
    offers: Offers, configuration: Path
) -> None:
    known = {"mailman-test:8024", "[2001:db8::1]:8024"}
    assert set(offers(f"postfix-sync -c {configuration} probe ")) == known
    assert set(offers(f"postfix-sync probe --config={configuration} ")) == known
    assert not Path("owned").exists()


def test_probe_completes_port_after_colon(configuration: Path) -> None:
    """readline ends a word at a colon, and completes only the part after it."""
    typed = ["postfix-sync", "-c", str(configuration), "probe", "mailman-test", ":"]
    assert bash_offers(*typed) == ["8024"]
    assert bash_offers(*typed, "80") == ["8024"]
    assert not bash_offers(*typed, "9")


def test_rollback_completes_generations_of_the_configuration(
    offers: Offers, configuration: Path
) -> None:
    assert set(offers(f"postfix-sync rollback -c {configuration} ")) == {"7", "12"}
    assert offers(f"postfix-sync -c {configuration} rollback 1") == ["12"]


def test_unreadable_state_directory_gives_no_completions(offers: Offers, tmp_path: Path) -> None:
    config = tmp_path / "nothing.yaml"
    config.write_text(f"state_directory: {tmp_path}/nowhere\n")
    assert not offers(f"postfix-sync -c {config} probe ")
    assert not offers(f"postfix-sync -c {config} rollback ")
    only_options = set(offers("postfix-sync doctor "))
    assert only_options <= options_of(SUBPARSERS["doctor"])


def test_both_completions_name_the_default_configuration() -> None:
    for path in (Path(postfix_sync.__file__).parents[1] / "completions").iterdir():
        assert "/etc/postfix-sync/config.yaml" in path.read_text()
