"""What a supervisor and its workers tell each other: a line of JSON each, over a socket pair."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import msgspec

from portask.config import Settings


class Boot(msgspec.Struct, tag=True):
    """The first line to a worker.

    Attributes:
        place: Which one it is.
        places: How many there are.
        port: Where they all listen.
        settings: Its own: those of the broker, with its part of what is divided.
        bells: Everybody's eventfd, by place.
        board: The page of counts.
        ring: The ring variant.
        color: Whether logs on a terminal may be coloured.
    """

    place: int
    places: int
    port: int
    settings: Settings
    bells: list[int]
    board: int
    ring: str
    color: bool


class Linked(msgspec.Struct, tag=True):
    """Another worker is there; names of the rings to it and from it."""

    place: int
    outgoing: str
    incoming: str


class Unlinked(msgspec.Struct, tag=True):
    """Another worker is gone."""

    place: int


class Reload(msgspec.Struct, tag=True):
    """Settings have changed. The number comes back in `Reloaded`."""

    number: int
    settings: Settings


class Stop(msgspec.Struct, tag=True):
    """Take leave of your clients."""


class Leave(msgspec.Struct, tag=True):
    """Nobody needs you any more."""


class Ready(msgspec.Struct, tag=True):
    """The worker listens.

    Attributes:
        durability: Of its storage.
        promise: In words, where the storage has some.
    """

    durability: str
    promise: str


class Failed(msgspec.Struct, tag=True):
    """The worker cannot start: why."""

    reason: str


class Reloaded(msgspec.Struct, tag=True):
    """The worker goes on with the settings of a `Reload`, or has problems and goes on with the old ones."""

    number: int
    problems: list[str]


class Empty(msgspec.Struct, tag=True):
    """The worker has no clients any more."""


ToWorker = Boot | Linked | Unlinked | Reload | Stop | Leave
ToSupervisor = Ready | Failed | Reloaded | Empty
_to_worker = msgspec.json.Decoder(ToWorker)
_to_supervisor = msgspec.json.Decoder(ToSupervisor)


def say(sock: socket.socket, message: ToWorker | ToSupervisor) -> None:
    """Sends a line. Blocks until the kernel has it.

    Raises:
        OSError: the other end is gone.
    """
    sock.sendall(msgspec.json.encode(message, enc_hook=str) + b"\n")


def commands(sock: socket.socket) -> Iterator[ToWorker]:
    """What the supervisor says, until it is gone. Blocks."""
    with sock.makefile("rb") as lines:
        for line in lines:
            if line.endswith(b"\n"):
                yield _to_worker.decode(line)


class Listener:
    """Puts together what a worker says."""

    def __init__(self) -> None:
        self._rest = b""

    def take(self, data: bytes) -> list[ToSupervisor]:
        """What is whole."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [_to_supervisor.decode(line) for line in lines]
