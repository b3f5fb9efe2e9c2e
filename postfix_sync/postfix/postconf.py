"""Run postconf(1): read and edit parameters of main.cf."""

from collections.abc import Mapping
from pathlib import Path

from postfix_sync.errors import ApplyError, ConfigError, SyncError
from postfix_sync.system.commands import Completed, find_command, run
from postfix_sync.system.files import NotRegular, denied_hint, open_file


def instance_command(config_directory: Path, name: str, *arguments: str) -> list[str]:
    """Return the argument list of a Postfix command for one instance."""
    return [find_command(name), "-c", str(config_directory), *arguments]


async def set_in(config_directory: Path) -> dict[str, str]:
    """Return the parameters that main.cf sets, as written. Raises ConfigError if there is none."""
    done = await _run_postconf(config_directory, "-n")
    # postconf(1) prints an operator's own parameter that nothing refers to only as a warning.
    marked = (line.partition("unused parameter: ")[2] for line in done.stderr.splitlines())
    found = settings_of("\n".join(marked)) | settings_of(done.stdout)
    found.pop("config_directory", None)  # postconf(1) prints where main.cf is
    return found


async def edit(config_directory: Path, changes: Mapping[str, str | None]) -> None:
    """Set parameters of main.cf, or remove the lines of those that are None. Raises ApplyError.

    postconf(1) replaces the file at once by a new one, owned by root, mode 0644. If the last line
    has no newline, postconf(1) appends the first new parameter to that line.
    """
    given = [f"{name}={value}" for name, value in changes.items() if value is not None]
    gone = [name for name, value in changes.items() if value is None]
    for option, arguments in (("-e", given), ("-X", gone)):
        if arguments:
            command = [find_command("postconf"), "-c", str(config_directory), option, *arguments]
            done = await run(command)
            if done.status:
                raise ApplyError(f"postconf {option}: {done.complaint}")


def settings_of(printed: str) -> dict[str, str]:
    """Parse what postconf(1) prints: one `name = value` a line."""
    lines = (line.partition("=") for line in printed.splitlines())
    return {name.strip(): value.strip() for name, equals, value in lines if equals}


async def postconf(config_directory: Path, *arguments: str) -> str:
    """Return what postconf(1) prints. Raises ConfigError if it fails."""
    return (await _run_postconf(config_directory, *arguments)).stdout


async def _run_postconf(config_directory: Path, *arguments: str) -> Completed:
    argv = [find_command("postconf"), "-c", str(config_directory), *arguments]
    _check_regular(config_directory)
    try:
        done = await run(argv)
    except SyncError as error:
        raise ConfigError(error.message, error.hint) from None
    if done.status:
        said = done.complaint.partition(": fatal: ")[2] or done.complaint
        raise ConfigError(
            f"{config_directory}: no Postfix configuration can be read here: {said}",
            _unreadable(config_directory),
        )
    return done


def _check_regular(config_directory: Path) -> None:
    """Raise ConfigError if a file is not regular: postconf(1) would block on a FIFO."""
    for path in (config_directory / "main.cf", config_directory / "master.cf"):
        try:
            open_file(path).close()
        except NotRegular as error:
            raise ConfigError(f"{path}: {error}", "Postfix can't read it either") from None
        except OSError:
            pass  # postconf(1) reports what is wrong with the file


def _unreadable(config_directory: Path) -> str:
    """Return the hint for a configuration that postconf(1) cannot read."""
    main_cf = config_directory / "main.cf"
    try:
        with open_file(main_cf):
            return f"fix that; postconf -c {config_directory} -n prints no error once it is fixed"
    except PermissionError as error:
        return denied_hint(main_cf, error)
    except OSError:
        return "set postfix.config_directory to the directory that has main.cf (see: postmulti -l)"
