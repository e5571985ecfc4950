"""What moves bytes between sockets and the broker, and what of the broker it sees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

from portask.messages import Buffer


class Endpoint(Protocol):
    """What a server calls: one per connection. `portask.core.session.Session` is the one there is.

    The server reads bytes and calls ``receive``; after it has read every ready socket it calls
    ``Engine.turn`` once, then writes what ``take_output`` of each returned session gives in one vectored
    write.
    """

    closing: bool
    """Close the connection once its output is written."""
    paused: bool
    """Stop reading from the connection: it has too much under way. `turn` reports changes."""
    congested: bool
    """Set by the server while it holds more unsent bytes than its high-water mark: no deliveries meanwhile."""

    def receive(self, data: Buffer) -> int:
        """Parses and queues. Never raises for bad bytes: an ERROR becomes output and ``closing`` is set.

        Returns how many frames it queued: what the next turn has to do for this connection. `next_read` makes of it how
        much to read the next time.
        """
        ...

    def take_output(self) -> list[Buffer]:
        """What to write now, in order. Views into receive buffers are valid until those are reused."""
        ...


FRAMES_A_READ = 64
"""About as many frames of one connection are handled in one turn: a millisecond of Python. A turn must be short, for
everybody else waits meanwhile. It is frames that take time and not bytes: a batch of a thousand messages is one."""


def next_read(read: int, frames: int, room: int, least: int, most: int) -> int:
    """How much to read from a connection the next time, bytes.

    Grows where the room was too small, by four at once, and shrinks where many frames came, or little.

    Args:
        read: What came this time.
        frames: How many frames it had.
        room: How much was to be read.
        least: Never less.
        most: Never more.
    """
    if frames > FRAMES_A_READ:
        return max(least, min(room, read * FRAMES_A_READ // frames))
    if read == room and 4 * frames <= FRAMES_A_READ:
        return min(4 * room, most)
    if read < room // 8:
        return max(room // 2, least)
    return room


class FramedEndpoint(Endpoint, Protocol):
    """What a server calls that cuts the stream into frames itself."""

    frame_limit: int
    """Largest body that may come now, bytes. Grows once, when the handshake is complete."""
    output: list[Any]
    """What to write now, each a `portask.wire.frames.Outgoing` whose header the server makes. Always the same list:
    taking out is clearing it."""

    def receive_frames(self, frames: list[Any], refused: Buffer = b"") -> None:
        """`Endpoint.receive` for frames that were cut and checked already.

        Args:
            frames: Each a `portask.wire.frames.Frame` within `frame_limit`, in order. The list is the endpoint's.
            refused: The 24 bytes behind them, if those are no header of a frame within the limit. The endpoint
                says why; the server reads and drops whatever comes after.
        """
        ...


class Engine(Protocol):
    """The broker as a server sees it. Synchronous, single-threaded, and it touches neither sockets nor clocks."""

    wake: Callable[[], None]
    """Set by the server: thread-safe, asks for a `turn` soon. Called when a storage or a worker finished something."""

    @property
    def connections(self) -> int:
        """How many clients there are, at all of the broker's processes. About 1 µs."""
        ...

    def connect(self, peer: str, now: int, certificate: tuple[str, ...] = ()) -> Endpoint:
        """A new connection from ``peer`` (host:port, for logs).

        Args:
            peer: Who it is.
            now: µs since the epoch.
            certificate: Names in the certificate that the client proved to have, as ``CN:…``, ``DNS:…``, ``URI:…``,
                ``EMAIL:…``; from servers with the capability "tls".
        """
        ...

    def disconnect(self, endpoint: Any) -> None:
        """The transport is gone. Idempotent."""
        ...

    def turn(self, now: int) -> Sequence[Endpoint]:
        """Handles everything received since the last turn.

        Returns the endpoints to look at: they may have output, be closing, or have changed `paused`.

        Args:
            now: µs since the epoch.
        """
        ...

    def uncongested(self, endpoint: Any) -> None:
        """The endpoint's unsent bytes fell below the server's low-water mark: deliveries go on with the next turn."""
        ...

    def deadline(self) -> int | None:
        """When the next `turn` is due even if nothing arrives (timers), µs since the epoch; ``None`` for never."""
        ...

    def drain(self, now: int) -> None:
        """Tells every client that the broker is going away; the next turns finish what is under way."""
        ...


@runtime_checkable
class Server(Protocol):
    """Accepts connections and moves bytes between sockets and the engine."""

    def run(self, engine: Engine, host: str, port: int, ready: Callable[[str, int], None]) -> None:
        """Serves until `stop`; calls ``ready(host, port)`` once it listens (port 0 picks a free one). Blocks.

        On stop: no more accepts, `Engine.drain`, up to the ``grace`` option's seconds to write what is
        queued, then closes.

        Raises:
            OSError: the address is in use or not ours.
        """
        ...

    def stop(self) -> None:
        """Ends `run`. Safe from other threads and from signal handlers; idempotent."""
        ...


@runtime_checkable
class Multicore(Protocol):
    """A server that can be one of several processes behind one address; those have the capability "multicore"."""

    def share(self, bell: int) -> None:
        """Called before `Server.run`: others listen at the same address (SO_REUSEPORT), and wake this one.

        Args:
            bell: A file descriptor, not the server's to read or close. As long as it is readable, turns are due.
        """
        ...
