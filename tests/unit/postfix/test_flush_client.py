"""What flush(8) may answer."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from postfix_sync.errors import OutOfReach
from postfix_sync.postfix.flush_client import retry_now
from tests.parts.unix_server import serving

GREETING = b"protocol\0queue_flush_protocol\0\0"


@contextmanager
def answering(path: Path, answer: bytes) -> Iterator[list[bytes]]:
    """Answer each request at a socket with the same bytes; yield the list of requests."""
    requests: list[bytes] = []

    def reply(_number: int, client: socket.socket) -> None:
        with client:
            requests.append(client.recv(1000))
            client.sendall(answer)

    with serving(path, reply):
        yield requests


@pytest.mark.parametrize("greeting", [GREETING, b""], ids=["3.6", "3.5"])
def test_each_message_is_a_request(tmp_path: Path, greeting: bytes) -> None:
    with answering(tmp_path / "flush", greeting + b"status\x000\0\0") as requests:
        retry_now(tmp_path / "flush", ["4abc", "4def"])
    assert requests == [
        b"request\0send_file\0queue_id\x004abc\0\0",
        b"request\0send_file\0queue_id\x004def\0\0",
    ]


@pytest.mark.parametrize(
    "answer",
    [
        GREETING,
        GREETING + b"status\x003\0\0",
        GREETING + b"status\x000\0",
        b"protocol\0other\0\0status\x000\0\0",
        b"x" * 5000,
    ],
)
def test_other_answer_is_an_error(tmp_path: Path, answer: bytes) -> None:
    with (
        answering(tmp_path / "flush", answer),
        pytest.raises(OutOfReach, match="not answer as expected"),
    ):
        retry_now(tmp_path / "flush", ["4abc"])


def test_socket_that_is_missing_or_closed_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OutOfReach, match="No such file"):
        retry_now(tmp_path / "flush", ["4abc"])
    with answering(tmp_path / "flush", b""):
        pass
    with pytest.raises(OutOfReach, match="Connection refused"):
        retry_now(tmp_path / "flush", ["4abc"])
