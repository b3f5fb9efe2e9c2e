"""Stub until the real one is merged."""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from postfix_sync.model import Snapshot


@dataclass(frozen=True)
class Jump:
    host: str
    port: int
    user: str


@dataclass(frozen=True)
class Login:
    host: str
    port: int
    user: str
    identity: Path
    known_hosts: Path
    connect_timeout: float
    jump: Jump | None = None


class Ssh:
    peer: str | None = None

    def __init__(self, login: Login, directory: PurePosixPath, max_size: int) -> None: ...
    async def fetch(self) -> Snapshot | None: ...
    def forget(self) -> None: ...
    async def close(self) -> None: ...
