"""An LMTP server in place of Mailman, for a container: it records what it accepts.

    python -m tests.parts.contained_sink PORT FILE SECONDS

It listens on every address after SECONDS, as a Mailman that takes time to start.  It writes a
message to FILE, one line for each recipient, before it replies, so no record is lost when the
container is killed.  Like Mailman before 3.3.6, it replies 250 to every recipient.
"""

import asyncio
import sys
import time
from email.parser import BytesHeaderParser
from pathlib import Path

from aiosmtpd.lmtp import LMTP
from aiosmtpd.smtp import SMTP, Envelope, Session

from tests.parts.lmtp_sink import LOAD_ID, Delivery


def deliveries(file: Path) -> list[Delivery]:
    """Return all deliveries recorded so far, oldest first."""
    lines = file.read_text().splitlines() if file.exists() else []
    found = (line.split(" ", 2) for line in lines)
    return [Delivery(recipient, load_id, float(at)) for at, load_id, recipient in found]


class _Handler:
    """The hooks that aiosmtpd calls for each message."""

    def __init__(self, file: Path) -> None:
        self.file = file

    async def handle_DATA(  # noqa: N802 - aiosmtpd's name
        self, server: SMTP, session: Session, envelope: Envelope
    ) -> str:
        content = envelope.content
        assert isinstance(content, bytes)
        load_id = BytesHeaderParser().parsebytes(content).get(LOAD_ID, "")
        with self.file.open("a") as file:
            file.write("".join(f"{time.time()} {load_id} {to}\n" for to in envelope.rcpt_tos))
        return "\r\n".join("250 2.0.0 OK" for _ in envelope.rcpt_tos)


async def _serve(port: int, file: Path, seconds: float) -> None:
    await asyncio.sleep(seconds)
    loop = asyncio.get_running_loop()
    handler = _Handler(file)
    await loop.create_server(lambda: LMTP(handler, hostname="sink"), None, port)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])))
