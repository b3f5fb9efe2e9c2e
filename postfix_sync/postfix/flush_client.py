"""Ask flush(8) to retry deferred messages, as `postqueue -i` does.

The protocol is internal to Postfix (global/flush_clnt.c, flush/flush.c): a connection carries one
request, of names and values that end with NUL; flush(8) greets, answers with a status, and closes
it. It has been the same for years, except that Postfix before 3.6 did not greet; an answer of
another shape is an error. Only root, the mail owner and the group postdrop can open the socket.
"""

import socket
from collections.abc import Iterable
from pathlib import Path

from postfix_sync.errors import OutOfReach, quote, why

TIMEOUT = 10.0
"""Seconds for one answer; flush(8) renames a file."""

ANSWER_BYTES = 1024
"""Bytes of an answer at most."""

_GREETING = b"protocol\0queue_flush_protocol\0\0"
_DONE = b"status\x000\0\0"


def retry_now(service: Path, queue_ids: Iterable[str]) -> None:
    """Have the flush(8) behind a socket move deferred messages to the incoming queue.

    qmgr(8) then tries to deliver them, even to a destination that it takes for dead. flush(8) skips
    a message that is on hold, or has left the queue.

    Raises OutOfReach if flush(8) does not answer, or not as expected.
    """
    try:
        for queue_id in queue_ids:
            answer = _answer(service, f"request\0send_file\0queue_id\0{queue_id}\0\0".encode())
            if answer.removeprefix(_GREETING) != _DONE:
                said = quote(answer.decode("utf-8", "replace"))
                raise OutOfReach(f"{service}: flush(8) does not answer as expected: {said}")
    except OSError as error:
        raise OutOfReach(f"{service}: flush(8) can't be asked: {why(error)}") from None


def _answer(service: Path, request: bytes) -> bytes:
    """Send one request; return the answer up to the end of the connection. Raises OSError."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(TIMEOUT)
        client.connect(str(service))
        client.sendall(request)  # in one write: flush(8) takes a short one for a trigger
        answer = b""
        while len(answer) < ANSWER_BYTES and (part := client.recv(ANSWER_BYTES)):
            answer += part
        return answer
