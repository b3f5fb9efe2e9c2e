"""The command line from a shell, cron and a terminal: options, output and exit statuses."""

import errno
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from postfix_sync import __version__
from postfix_sync.config.reading import load
from postfix_sync.config.schema import (
    DEFAULT_PATH,
    Config,
    GuardSection,
    HostsSection,
    MetricsSection,
    PostfixSection,
    ProbeSection,
    SourceSection,
)
from postfix_sync.config.sections import keys
from postfix_sync.system.files import denied_hint
from tests.parts.daemon import install, obey_modes
from tests.parts.mailman_files import nine
from tests.parts.postfix_instance import PostfixInstance, mailman_parameters
from tests.parts.site import COMMAND, Site

pytestmark = pytest.mark.slow

ANTS, BEES = "ants@lists.example.net", "bees@lists.example.net"
EXAMPLE = Path(__file__).parents[2] / "config.example.yaml"

MakeSite = Callable[..., Site]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that keeps maps that were built once."""
    return tmp_path_factory.mktemp("template")


@pytest.fixture
def site(make_site: MakeSite, template: Path, idle_postfix: PostfixInstance) -> Site:
    """One list, installed, in a Postfix that uses the maps: a sync has nothing to report."""
    made = make_site("lmdb")
    idle_postfix.postconf(**mailman_parameters(made.maps, "lmdb"))
    return install(made, ANTS, template=template)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command without a site; on this machine there is no configuration for it."""
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, check=False)


def test_help_shows_commands_and_options() -> None:
    done = run("--help")
    assert (done.returncode, done.stderr) == (0, "")
    for word in ("--once", "--dry-run", "--force", "-c FILE", "-v", "-q", "probe", "status"):
        assert word in done.stdout
    for command in ("probe", "status"):
        done = run(command, "--help")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(f"usage: postfix-sync {command}")
        for option in ("-c FILE", "-v", "-q", "--json"):
            assert option in done.stdout


def test_version_is_printed() -> None:
    done = run("--version")
    assert (done.returncode, done.stdout) == (0, f"postfix-sync {__version__}\n")


@pytest.mark.parametrize("option", [["-v"], ["-q"], ["--verbose"], ["--log-format", "json"]])
@pytest.mark.parametrize("command", [["status"], ["probe", "127.0.0.1:1", "--level", "connect"]])
def test_options_are_accepted_before_and_after_the_command(
    site: Site, option: Sequence[str], command: Sequence[str]
) -> None:
    site.once()
    file = ["-c", str(site.config)]
    ends = [
        subprocess.run([*COMMAND, *words], capture_output=True, text=True, check=False)
        for words in ([*file, *option, *command], [*command, *option, *file])
    ]
    assert {end.returncode for end in ends} == {0 if command == ["status"] else 69}
    assert ageless(ends[0].stdout) == ageless(ends[1].stdout)


def ageless(status: str) -> str:
    """Replace the ages and the column widths in a status, which differ between two calls."""
    return re.sub(" +", " ", re.sub(r"\d+ (s|min)\b", "N", status))


def test_last_configuration_option_is_used(site: Site) -> None:
    """-c is accepted before and after the command; if both are given, the last one is used."""
    site.once()
    after = run("-c", "/nonexistent", "status", "-c", str(site.config))
    assert (after.returncode, after.stderr) == (0, "")
    before = run("-c", str(site.config), "status", "-c", "/nonexistent")
    assert before.returncode == 78


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--dry-run"], "--dry-run requires --once or setup"),
        (["--force"], "--force requires --once"),
        (["--dry-run", "status"], "--dry-run requires --once or setup"),
        (["--once", "status"], "--once can't be combined with status"),
        (["--once", "probe"], "--once can't be combined with probe"),
        (["-v", "-q"], "not allowed with argument"),
        (["status", "-v", "-q"], "not allowed with argument"),
        (["status", "--once"], "unrecognized arguments: --once"),
        (["status", "extra"], "unrecognized arguments: extra"),
        (["--json"], "unrecognized arguments: --json"),
        (["statsu"], "invalid choice: 'statsu'"),
        (["probe", "--level", "off"], "invalid choice: 'off'"),
        (["probe", "--level", "data"], "invalid choice: 'data'"),
        (["--log-format", "xml"], "invalid choice: 'xml'"),
        (["-c"], "expected one argument"),
    ],
    ids=" ".join,
)
def test_invalid_combination_of_arguments_is_a_usage_error(
    arguments: Sequence[str], says: str
) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: postfix-sync")
    assert says in done.stderr.splitlines()[-1]


MISTAKES = """\
sources:
  - pth: /srv/mailman_var/data
    interval: soon
postfix:
  map_type: berkeley
  reload: allways
  reload: never
probe:
  level: ehlo
gaurd:
  max_removed: 150%
state_directory: var/lib
"""


@pytest.mark.parametrize(
    "command", [["--once"], ["--once", "--dry-run"], ["status"], ["probe"], []]
)
def test_all_errors_of_a_configuration_are_reported_at_once(
    tmp_path: Path, command: Sequence[str]
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(MISTAKES)
    done = run(*command, "-c", str(path))
    assert (done.returncode, done.stdout) == (78, "")
    lines = [line.partition("postfix-sync: ")[2] for line in done.stderr.splitlines()]
    hint = "every key with its default: man postfix-sync.yaml, or config.example.yaml"
    assert lines[-1] == f"hint: {hint}"
    lines[0] = lines[0].removeprefix("error: ")
    expected = [
        (2, "sources[0].path: missing; it is required"),
        (2, 'sources[0].pth: unknown key; did you mean "path"?'),
        (3, "sources[0].interval: expected a duration such as 500ms, 30s, 5m or 1h"),
        (5, "postfix.map_type: "),
        (7, "postfix.reload: duplicate key"),
        (9, "probe.level: expected 'connect', 'lhlo', 'rcpt' or 'off'"),
        (10, 'gaurd: unknown key; did you mean "guard"?'),
        (12, 'state_directory: expected an absolute path, not "var/lib"'),
    ]
    for message, (line, problem) in zip(lines, expected, strict=False):
        assert message.startswith(f"{path}:{line}: {problem}")
    assert len(lines) == len(expected) + 1, done.stderr


def test_missing_configuration_is_reported_with_an_example(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    done = run("--once", "-c", str(path))
    assert (done.returncode, done.stdout) == (78, "")
    problem, hint = done.stderr.splitlines()
    assert problem == (
        f"postfix-sync: error: {path}: No such file or directory: postfix-sync can't run"
        " without a configuration"
    )
    assert "sources: [{path: /srv/mailman_var/data}]" in hint


def test_default_configuration_is_in_etc() -> None:
    if DEFAULT_PATH.exists():
        pytest.skip("this machine has a configuration")
    done = run("status")
    assert done.returncode == 78
    assert done.stderr.startswith("postfix-sync: error: /etc/postfix-sync/config.yaml: ")


def test_unreadable_configuration_is_reported_with_commands_to_check(site: Site) -> None:
    site.configure()
    site.config.chmod(0)
    process = site.start("--once", preexec_fn=obey_modes)
    _, complaint = process.communicate(timeout=60)
    assert process.returncode == 77
    assert complaint == (
        f"postfix-sync: error: {site.config}: Permission denied\n"
        f"postfix-sync: hint: root is denied access: see namei -l {site.config} (modes, which a"
        f" service without CAP_DAC_OVERRIDE obeys), findmnt -T {site.config} (an NFS server),"
        " journalctl -k -g denied (AppArmor, SELinux)\n"
    )


@pytest.mark.usefixtures("root")
def test_hint_to_run_as_root_is_given_to_other_users_only(tmp_path: Path) -> None:
    path = tmp_path / "a file"
    denied, attribute = (PermissionError(number, "") for number in (errno.EACCES, errno.EPERM))
    assert "root" in denied_hint(path, denied).partition(":")[0]
    assert f"lsattr -d {tmp_path} '{path}'" in denied_hint(path, attribute)
    os.seteuid(65534)
    try:
        assert denied_hint(path, denied) == "run postfix-sync as root"
        assert denied_hint(path, attribute) == "run postfix-sync as root"
    finally:
        os.seteuid(0)


def at_a_terminal(site: Site, *arguments: str) -> tuple[int, str]:
    """Run the command with a terminal as standard error; return its exit status and output."""
    ours, theirs = pty.openpty()
    with site.start(*arguments, stderr=theirs, stdout=subprocess.DEVNULL) as process:
        os.close(theirs)
        said = b""
        try:
            while part := os.read(ours, 4096):
                said += part
        except OSError:  # EIO: the other end is closed
            pass
        finally:
            os.close(ours)
    return process.returncode, said.decode().replace("\r\n", "\n")


def test_once_prints_changes_only_at_a_terminal_or_with_verbose(site: Site) -> None:
    """cron sends mail for any output; a user at a terminal wants to see what was done."""
    added = f"postfix-sync: lists: +1 list: {BEES}\n"
    site.files.write(ANTS, BEES)
    done = site.run("--once")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert site.installed("postfix_recipients").keys() == {*nine(ANTS), *nine(BEES)}
    site.files.write(ANTS)
    status, said = at_a_terminal(site, "--once")
    assert (status, said.count(f"postfix-sync: lists: -1 list: {BEES}\n")) == (0, 1), said
    assert "warning" not in said
    site.files.write(ANTS, BEES)
    done = site.run("--once", "-v")
    assert (done.returncode, done.stdout, done.stderr.count(added)) == (0, "", 1), done
    site.files.write(ANTS)
    assert at_a_terminal(site, "--once", "-q") == (0, "")


@pytest.mark.parametrize(
    ("where", "status", "says"),
    [
        ("> /dev/full", 1, "postfix-sync: error: standard output: No space left on device\n"),
        (">&-", 0, ""),
        ("2>&-", 0, ""),
        ("<&- >&- 2>&-", 0, ""),
    ],
)
def test_output_that_cannot_be_written_gives_exit_status(
    tmp_path: Path, where: str, status: int, says: str
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(f"sources: [{{path: {tmp_path}}}]\nstate_directory: {tmp_path}\n")
    command = [*COMMAND, "-c", str(config), "rollback"]
    shell = ["sh", "-c", f'"$@" {where}', "sh", *command]
    done = subprocess.run(shell, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (status, says)


def test_quiet_does_not_suppress_errors(site: Site) -> None:
    site.files.directory.rename(site.directory / "away")
    for arguments in (["--once"], ["--once", "-q"], ["-q", "--once"]):
        done = site.run(*arguments)
        assert (done.returncode, done.stdout) == (75, "")
        problem, hint = done.stderr.splitlines()
        assert problem.startswith(f"postfix-sync: error: {site.files.directory}/postfix_lmtp: No")
        assert hint.startswith("postfix-sync: hint: ")


def test_quiet_does_not_suppress_the_status(site: Site) -> None:
    """A user who runs `status` wants its output."""
    site.once()
    quiet, plain = (site.run("status", *option).stdout for option in (["-q"], []))
    assert ageless(quiet) == ageless(plain) != ""


def test_example_configuration_loads_and_shows_the_defaults() -> None:
    """The example has every key, with its default value."""
    example = load(EXAMPLE)
    bare = Config(sources=[SourceSection(path=example.sources[0].path)], path=EXAMPLE)
    assert example == bare
    text = EXAMPLE.read_text()
    for section in (
        Config,
        SourceSection,
        PostfixSection,
        HostsSection,
        GuardSection,
        ProbeSection,
        MetricsSection,
    ):
        for key in keys(section):
            assert f"{key}:" in text, f"{section.__name__}.{key} is not shown"


LOADED = """\
import sys
before = set(sys.modules)
from postfix_sync.cli.command_line import main
try:
    status = main(sys.argv[1:])
except SystemExit as end:
    status = end.code
loaded = sys.modules.keys() - before
libraries = {
    name.partition(".")[0]
    for name in loaded
    if "site-packages" in (getattr(sys.modules[name], "__file__", None) or "")
}
print()
print(status, *sorted(libraries | loaded & HEAVY))
"""
"""A command, after which the last line of the output has its status and what it has imported."""

HEAVY = {
    "asyncio",
    "ctypes",
    "email",
    "http",
    "importlib.metadata",
    "postfix_sync.daemon",
    "postfix_sync.doctor",
    "postfix_sync.sources.sftp",
    "unittest",
    "urllib.request",
    "xml",
}
"""Modules that take milliseconds to import, and that a sync of a local volume does not need."""


def loaded_by(site: Site, *arguments: str) -> list[str]:
    """Return the exit status of a command, and the libraries and heavy modules that it imports."""
    code = f"HEAVY = {HEAVY!r}\n{LOADED}"
    done = subprocess.run(
        [sys.executable, "-c", code, "-c", str(site.config), *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout, done
    return done.stdout.splitlines()[-1].split()


@pytest.mark.parametrize(
    ("level", "expected"),
    [("off", ["0", "asyncio", "yaml"]), ("rcpt", ["69", "aiosmtplib", "asyncio", "email", "yaml"])],
)
def test_sync_imports_only_the_libraries_that_it_needs(
    site: Site, level: str, expected: list[str]
) -> None:
    site.configure(probe={"level": level})
    assert loaded_by(site, "--once") == expected


def test_version_is_printed_without_asyncio_and_libraries(site: Site) -> None:
    assert loaded_by(site, "--version") == ["0"]
