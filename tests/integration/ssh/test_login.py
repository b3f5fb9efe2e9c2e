"""Logins of the SSH source: its identity file, no file of root's own, and SFTP."""

import os
import shlex
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from postfix_sync.errors import NotPermitted, escape
from tests.parts.common import wait_for
from tests.parts.ssh_source import STAY, Far, failed, fetched, run_fix
from tests.parts.sshd import SFTP_SERVER, fingerprint, make_key

pytestmark = pytest.mark.slow


def test_missing_identity_is_named_with_the_command_that_makes_it(far: Far) -> None:
    far.key.unlink()
    error = failed(far.source())
    assert type(error) is NotPermitted
    assert error.message.startswith(f"{far.key}: No such file or directory: there is no key")
    assert error.hint.startswith(f"ssh-keygen -t ed25519 -N '' -f {far.key}")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_identity_that_others_can_read_is_refused(far: Far, mode: int) -> None:
    far.key.chmod(mode)
    error = failed(far.source())
    assert type(error) is NotPermitted
    assert f"{far.key}: mode {mode:04o}: users other than its owner have access" in error.message
    assert f"chmod 600 {far.key}" in error.hint
    assert far.sshd.log_text().count("Connection from") == 0


@pytest.mark.parametrize("form", [[], ["-m", "PEM", "-t", "rsa"], ["-m", "PKCS8", "-t", "ecdsa"]])
def test_encrypted_identity_is_refused(far: Far, form: list[str]) -> None:
    path = far.directory / "encrypted"
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "secret", *form, "-f", str(path)]
    subprocess.run(command, check=True)
    error = failed(far.source(identity=path))
    assert type(error) is NotPermitted
    assert "postfix-sync can't enter one" in error.message
    assert f"ssh-keygen -p -N '' -f {path}" in error.hint


@pytest.mark.parametrize(
    "content", [b"", b"\xff\0", b"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n", b"ssh-ed25519 AAAA"]
)
def test_identity_that_is_not_a_key_is_refused(far: Far, content: bytes) -> None:
    far.key.write_bytes(content)
    error = failed(far.source())
    assert type(error) is NotPermitted
    assert error.message == f"{far.key}: not a private key; {STAY}"


def test_identity_that_is_a_fifo_is_refused_at_once(far: Far) -> None:
    far.key.unlink()
    os.mkfifo(far.key, 0o600)
    assert type(failed(far.source())) is NotPermitted


@pytest.mark.parametrize("kind", ["rsa", "ecdsa"])
def test_keys_of_other_types_log_in(far: Far, kind: str) -> None:
    key = make_key(far.directory / "other", kind)
    far.sshd.authorize(key)
    assert fetched(far.source(identity=key))


def test_refused_login_gets_the_command_that_authorizes_the_key(far: Far) -> None:
    other = make_key(far.directory / "other key")
    error = failed(far.source(identity=other))
    assert type(error) is NotPermitted
    assert error.message == (
        f'127.0.0.1:{far.sshd.port}: refuses user "root" with the key ssh-ed25519'
        f" {fingerprint(other)} of {other}; {STAY}"
    )
    command = f'echo "restrict $(ssh-keygen -y -f {shlex.quote(str(other))})"'
    assert error.hint.startswith(command)
    run_fix(f"{command} >> {far.sshd.authorized_keys}")
    assert fetched(far.source(identity=other))


def test_unknown_user_is_refused(far: Far) -> None:
    error = failed(far.source(user="no-such-user"))
    assert type(error) is NotPermitted
    assert 'refuses user "no-such-user" with the key' in error.message


def test_neither_agent_nor_home_are_used(
    far: Far, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host accepts the agent's key and root's default key, which ~/.ssh/config names."""
    home = tmp_path / ".ssh"
    home.mkdir(mode=0o700)
    shutil.copy(far.key, home / "id_ed25519")
    (home / "known_hosts").write_text(far.known_hosts.read_text())
    (home / "config").write_text(
        f"Host *\n  Port {far.sshd.port}\n  User root\n  StrictHostKeyChecking no\n"
        f"  ProxyCommand touch {tmp_path}/used\n  IdentityFile {home}/id_ed25519\n"
    )
    monkeypatch.setenv("HOME", str(tmp_path))
    agent = tmp_path / "agent"
    other = make_key(tmp_path / "other")
    with subprocess.Popen(["ssh-agent", "-D", "-a", str(agent)], stdout=subprocess.DEVNULL) as run:
        try:
            monkeypatch.setenv("SSH_AUTH_SOCK", str(agent))
            wait_for(agent.exists, 5, "the agent's socket")
            subprocess.run(["ssh-add", "-q", str(far.key)], check=True)
            error = failed(far.source(identity=other))
            assert "refuses user" in error.message
            assert far.sshd.log_text().count("Failed publickey") == 1
            assert fetched(far.source())
        finally:
            run.terminate()
    assert not (tmp_path / "used").exists()


@pytest.mark.parametrize("option", ["Subsystem other /bin/true", "ForceCommand /bin/false"])
def test_server_without_sftp_is_named(directory: Path, option: str) -> None:
    far = Far(directory, options=[option])
    with far.sshd:
        error = failed(far.source())
    assert type(error) is NotPermitted
    assert 'user "root" may log in, but there is no SFTP' in error.message
    assert "Subsystem sftp internal-sftp" in error.hint


@pytest.mark.parametrize("said", ["Welcome to mail\n", "hi", "This account is not available.\n"])
def test_text_of_login_shell_before_sftp_is_reported_at_once(directory: Path, said: str) -> None:
    """bash, started by sshd for the SFTP server, reads .bashrc."""
    (directory / "home").mkdir()
    bashrc = directory / "home/.bashrc"
    bashrc.write_text(f"printf %s {shlex.quote(said)}\n" + ("exit\n" if "account" in said else ""))
    far = Far(directory, options=[f"SetEnv HOME={directory}/home", f"Subsystem sftp {SFTP_SERVER}"])
    with far.sshd:
        began = time.monotonic()
        error = failed(far.source())
        assert time.monotonic() - began < 3
        assert type(error) is NotPermitted
        begun = escape(said)[:2]
        assert f'may log in, but what comes is not SFTP: "{begun}' in error.message
        assert "account" not in said or f'"{escape(said)}"' in error.message
        [_, _, command] = error.hint.partition("must print nothing: ")
        shown = subprocess.run(command.split(";")[0], shell=True, check=False, capture_output=True)
        assert shown.stdout.decode() == said
        bashrc.unlink()
        assert fetched(far.source())


def test_internal_sftp_starts_no_shell_that_prints(directory: Path) -> None:
    (directory / ".bashrc").write_text("echo Welcome\n")
    far = Far(directory, options=[f"SetEnv HOME={directory}", "Subsystem sftp internal-sftp"])
    with far.sshd:
        assert fetched(far.source())


@pytest.mark.parametrize(
    ("what", "setting", "only"),
    [
        ("key exchange", "KexAlgorithms", "diffie-hellman-group1-sha1"),
        ("encryption", "Ciphers", "aes128-cbc"),
        ("MAC", "MACs", "hmac-md5"),
        ("host key", "HostKeyAlgorithms", "ssh-rsa"),
    ],
)
def test_server_without_common_algorithm_needs_an_operator(
    directory: Path, what: str, setting: str, only: str
) -> None:
    """Both sides' lists are in the message; the setting in the hint permits an algorithm."""
    options = [f"{setting} {only}", *(["Ciphers aes128-ctr"] if what == "MAC" else [])]
    far = Far(directory, options=options, host_keys=("rsa", "ed25519"))
    with far.sshd:
        error = failed(far.source())
    assert type(error) is NotPermitted
    assert f"no common {what} algorithm: the server permits" in error.message
    assert f'"{only}"' in error.message
    assert "…" not in error.message
    fix = error.hint.partition("permit one: ")[2].partition(";")[0]
    assert fix.startswith(f"{setting} +")
    usual = fix.partition("+")[2]
    assert usual in error.message
    repaired = Far(directory / "repaired", options=[fix, *options[1:]])
    with repaired.sshd:
        assert fetched(repaired.source())
