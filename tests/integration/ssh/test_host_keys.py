"""The host keys and certificates that the SSH source accepts: known_hosts as ssh(1) reads it."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from postfix_sync.errors import Exit, NotPermitted, SyncError
from tests.parts.source_content import fetch
from tests.parts.ssh_source import (
    STAY,
    Far,
    closing,
    failed,
    fetched,
    refusal,
    rewrite_names,
    run,
    run_fix,
)
from tests.parts.sshd import Sshd, fingerprint, make_key, public

pytestmark = pytest.mark.slow


def test_hashed_names_are_found(far: Far) -> None:
    far.known_hosts.unlink()
    far.sshd.write_known_hosts(far.known_hosts, hashed=True)
    assert "127.0.0.1" not in far.known_hosts.read_text()
    assert fetched(far.source())


@pytest.mark.parametrize(
    "pattern", ["127.0.0.1", "*", "[127.0.0.*]:*", "elsewhere,[127.0.0.1]:{port}"]
)
def test_names_match_as_in_ssh(far: Far, pattern: str) -> None:
    rewrite_names(far, pattern.format(port=far.sshd.port))
    assert fetched(far.source())


@pytest.mark.parametrize("pattern", ["[127.0.0.1]:1", "127.0.0.2", "*,!127.0.0.1,![127.0.0.1]:*"])
def test_host_key_of_another_name_is_refused(far: Far, pattern: str) -> None:
    rewrite_names(far, pattern)
    assert type(failed(far.source())) is NotPermitted


def test_known_address_does_not_authenticate_another_host_name(far: Far) -> None:
    """As in ssh(1), the configured name decides, not the address that it resolves to."""
    error = failed(far.source(host="localhost"))
    assert "is not in" in error.message


@pytest.mark.parametrize("pattern", ["LocalHost", "[LocalHost]:*", "other,LOCAL*"])
def test_known_hosts_names_match_in_any_case(far: Far, pattern: str) -> None:
    """The configuration has hosts in lower case; ssh-keygen hashes names in lower case."""
    rewrite_names(far, pattern)
    assert fetched(far.source(host="localhost"))


@pytest.mark.parametrize("pattern", ["LocalHost", "[LOCALHOST]:{port}", "Local*", "x,LocalHost"])
def test_revoked_key_matches_its_host_in_any_case(far: Far, pattern: str) -> None:
    key = public(far.sshd.host_key())
    pattern = pattern.format(port=far.sshd.port)
    far.known_hosts.write_text(f"localhost {key}\n@revoked {pattern} {key}\n")
    assert "is marked @revoked in" in failed(far.source(host="localhost")).message


def test_comments_in_known_hosts_are_ignored(far: Far) -> None:
    key = public(far.sshd.host_key())
    far.known_hosts.write_text(f"127.0.0.1 {key} clé de l'hôte\n", encoding="utf-8")
    assert fetched(far.source())
    with far.known_hosts.open("ab") as file:
        file.write(f"@revoked\t127.0.0.1 {key} volée, cl\xe9".encode("latin-1"))
    assert "is marked @revoked in" in failed(far.source()).message


@pytest.mark.parametrize("known", ["ed25519", "ecdsa", "rsa"])
def test_one_of_several_host_keys_is_enough(directory: Path, known: str) -> None:
    far = Far(directory, host_keys=["rsa", "ecdsa", "ed25519"])
    key = public(far.sshd.host_key(known))
    far.known_hosts.write_text(f"{far.sshd.known_as} {key}\n")
    with far.sshd:
        assert fetched(far.source())


def test_unknown_host_key_is_refused_with_the_command_that_adds_it(far: Far) -> None:
    far.known_hosts.write_text("# nobody is known\n\nother.example ssh-ed25519 AAAA\n")
    error = failed(far.source())
    port = far.sshd.port
    assert type(error) is NotPermitted
    assert error.status == Exit.NOT_PERMITTED
    assert error.message == (
        f"127.0.0.1:{port}: its host key ssh-ed25519 {fingerprint(far.sshd.host_key())}"
        f" is not in {far.known_hosts}; {STAY}"
    )
    assert "ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub" in error.hint
    assert error.hint.endswith(f"ssh-keyscan -p {port} 127.0.0.1 >> {far.known_hosts}")
    run_fix(error.hint.rpartition(": ")[2])
    assert fetched(far.source())


def test_changed_host_key_is_refused_with_both_fingerprints(far: Far) -> None:
    """Also in a running source: it loses its connection, and makes no new one."""
    known = fingerprint(far.sshd.host_key())

    async def session() -> SyncError:
        async with closing(far.source()) as source:
            assert await fetch(source)
            far.sshd.stop()
            far.sshd.replace_host_key()
            far.sshd.start()
            return await refusal(source)

    error = run(session())
    offered = fingerprint(far.sshd.host_key())
    assert type(error) is NotPermitted
    assert error.message == (
        f"127.0.0.1:{far.sshd.port}: its host key has changed, or another host answers: it offers"
        f" ssh-ed25519 {offered}, {far.known_hosts} has ssh-ed25519 {known}; {STAY}"
    )
    name = f"[127.0.0.1]:{far.sshd.port}"
    removal = f"ssh-keygen -R '{name}' -f {far.known_hosts}"
    assert removal in error.hint
    run_fix(removal)
    run_fix(error.hint.rpartition(", then ")[2])
    assert fetched(far.source())


def test_host_key_of_another_type_is_refused_with_both_fingerprints(directory: Path) -> None:
    """The handshake alone would only report that no algorithm matches."""
    far = Far(directory, host_keys=["rsa"])
    other = make_key(directory / "other")
    far.known_hosts.write_text(f"{far.sshd.known_as} {public(other)}\n")
    with far.sshd:
        error = failed(far.source())
    assert type(error) is NotPermitted
    assert f"it offers ssh-rsa {fingerprint(far.sshd.host_key('rsa'))}" in error.message
    assert f"has ssh-ed25519 {fingerprint(other)}" in error.message


@pytest.mark.parametrize("name", ["{known_as}", "127.0.0.1", "*"])
def test_revoked_host_key_is_refused(far: Far, name: str) -> None:
    """Whether or not its line names the port, and even if another line trusts the key."""
    key = public(far.sshd.host_key())
    with far.known_hosts.open("a") as file:
        file.write(f"@revoked {name.format(known_as=far.sshd.known_as)} {key}\n")
        file.write(f"127.0.0.1 {key}\n")
    error = failed(far.source())
    assert type(error) is NotPermitted
    assert f"{fingerprint(far.sshd.host_key())} is marked @revoked in" in error.message


def test_key_revoked_for_its_port_is_refused(far: Far) -> None:
    """asyncssh's own match drops this line when it falls back to the name without a port."""
    key = public(far.sshd.host_key())
    far.known_hosts.write_text(f"@revoked {far.sshd.known_as} {key}\n127.0.0.1 {key}\n")
    assert "is marked @revoked in" in failed(far.source()).message


@pytest.fixture
def certified(directory: Path) -> Iterator[tuple[Far, Path]]:
    """A host with a certificate, of which only the CA is known; and the CA's key."""
    authority = make_key(directory / "ca")
    far = Far(directory)
    certify(far.sshd.host_key(), authority, "127.0.0.1")
    far.sshd = Sshd(
        directory / "certified",
        options=[
            f"HostCertificate {far.sshd.host_key()}-cert.pub",
            f"HostKey {far.sshd.host_key()}",
        ],
        host_keys=[],
    )
    far.sshd.authorize(far.key, "restrict")
    far.known_hosts.write_text(f"@cert-authority * {public(authority)}\n")
    with far.sshd:
        yield far, authority


def certify(key: Path, authority: Path, name: str, valid: str = "+1h") -> None:
    """Sign a host's key with the CA's key."""
    command = ["ssh-keygen", "-q", "-s", str(authority), "-I", "id", "-h", "-n", name]
    subprocess.run([*command, "-V", valid, f"{key}.pub"], check=True, capture_output=True)


def test_host_certificate_of_a_known_ca_is_accepted(certified: tuple[Far, Path]) -> None:
    assert fetched(certified[0].source())


def test_ca_matches_its_host_in_any_case(certified: tuple[Far, Path]) -> None:
    far, authority = certified
    certify(far.directory / "sshd" / "ssh_host_ed25519_key", authority, "localhost")
    far.sshd.restart()
    far.known_hosts.write_text(f"@cert-authority LocalHost {public(authority)}\n")
    assert fetched(far.source(host="localhost"))


def test_certificate_of_an_unknown_ca_is_refused(certified: tuple[Far, Path]) -> None:
    far, authority = certified
    other = make_key(far.directory / "other")
    far.known_hosts.write_text(f"@cert-authority * {public(other)}\n")
    error = failed(far.source())
    assert type(error) is NotPermitted
    assert f"its host certificate by the CA ssh-ed25519 {fingerprint(authority)}" in error.message
    assert "no such CA is known for this host" in error.message


def test_certificate_of_a_revoked_ca_is_refused(certified: tuple[Far, Path]) -> None:
    far, authority = certified
    with far.known_hosts.open("a") as file:
        file.write(f"@revoked * {public(authority)}\n")
    error = failed(far.source())
    assert type(error) is NotPermitted
    assert f"{fingerprint(authority)} is marked @revoked" in error.message


def test_certificate_of_a_revoked_key_is_refused(certified: tuple[Far, Path]) -> None:
    far, _ = certified
    key = far.directory / "sshd" / "ssh_host_ed25519_key"
    with far.known_hosts.open("a") as file:
        file.write(f"@revoked * {public(key)}\n")
    error = failed(far.source())
    assert type(error) is NotPermitted
    assert f"{fingerprint(key)} is marked @revoked" in error.message


@pytest.mark.parametrize(
    ("name", "valid"), [("other.example", "+1h"), ("127.0.0.1", "20200101:20200102")]
)
def test_certificate_for_another_host_or_time_is_refused(
    certified: tuple[Far, Path], name: str, valid: str
) -> None:
    far, authority = certified
    certify(far.directory / "sshd" / "ssh_host_ed25519_key", authority, name, valid)
    far.sshd.restart()
    error = failed(far.source())
    assert type(error) is NotPermitted
    assert "its host certificate by a known CA is not accepted" in error.message


def test_revoked_certificate_in_known_hosts_is_an_error(
    certified: tuple[Far, Path],
) -> None:
    """If the line were ignored, the certificate would be accepted."""
    far, _ = certified
    certificate = (far.directory / "sshd" / "ssh_host_ed25519_key-cert.pub").read_text()
    with far.known_hosts.open("a") as file:
        file.write(f"@revoked * {certificate}")
    error = failed(far.source())
    assert type(error) is NotPermitted
    assert error.message.startswith(f"{far.known_hosts}:2: not a line of a known_hosts file")


@pytest.mark.parametrize("names", ["other.example,", ",other.example", "a,,b", ","])
def test_empty_name_in_known_hosts_is_an_error(far: Far, names: str) -> None:
    key = public(far.sshd.host_key())
    far.known_hosts.write_text(f"{names} {key}\n")
    error = failed(far.source())
    assert type(error) is NotPermitted
    assert error.message.startswith(f"{far.known_hosts}:1: not a line of a known_hosts file")


def test_host_without_the_expected_certificate_is_refused(far: Far) -> None:
    authority = make_key(far.directory / "ca")
    far.known_hosts.write_text(f"@cert-authority * {public(authority)}\n")
    error = failed(far.source())
    assert type(error) is NotPermitted
    assert f"requires a certificate by ssh-ed25519 {fingerprint(authority)}" in error.message


def test_missing_known_hosts_file_is_named(far: Far) -> None:
    far.known_hosts.unlink()
    error = failed(far.source())
    assert type(error) is NotPermitted
    assert error.message.startswith(f"{far.known_hosts}: No such file or directory: no host key")
    assert f"ssh-keyscan -p {far.sshd.port} 127.0.0.1 >> {far.known_hosts}" in error.hint


@pytest.mark.parametrize(
    "line",
    [
        "nonsense",
        "@revoked",
        "@revoked 127.0.0.1",
        "@revoked {key}",
        "@revoked * {cut}",
        "@revoked * {data}",
        "@revoked * {data} comment",
        "@revoked * ssh-unknown {data}",
        "@revoked * ssh-ed25519-cert-v01@openssh.com {data}",
        "@revoked |1|x|y {key}",
        "@unknown * ssh-ed25519 AAAA",
        "|1|x|y {key}",
    ],
)
def test_malformed_line_in_known_hosts_is_an_error(far: Far, line: str) -> None:
    key = public(far.sshd.host_key())
    line = line.format(key=key, cut=key[:-4], data=key.split()[1])
    far.known_hosts.write_bytes(far.known_hosts.read_bytes() + b"# caf\xe9\n" + line.encode())
    error = failed(far.source())
    assert type(error) is NotPermitted
    said = f'{far.known_hosts}:3: not a line of a known_hosts file: "{line[:60]}'
    assert error.message.startswith(said)
