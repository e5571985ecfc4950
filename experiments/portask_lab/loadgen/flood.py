"""A loud producer: publishes as fast as the broker takes it, until it is told to stop.

``python -m portask_lab.loadgen.flood PORT SIZE COUNT`` is its process: ``SIZE`` bytes a payload, ``COUNT`` messages a
publish. Nobody reads what it sends. Two lines on its standard input: begin, and stop.
"""

from __future__ import annotations

import select
import sys
import time

import msgspec

from portask.errors import PortaskError
from portask_lab.loadgen.links import Publisher
from portask_lab.loadgen.messages import Ring
from portask_lab.loadgen.team import Team, answer

TOPIC = "loud"
_CHUNK_BYTES = 256 * 1024
WINDOW_BYTES = 8 << 20
"""So much may be under way: more than a broker that keeps up ever leaves unread."""


class Report(msgspec.Struct):
    """What was published.

    Attributes:
        messages: That were acknowledged.
        seconds: From the beginning to the stop.
        error: Why it ended before it was told to.
    """

    messages: int = 0
    seconds: float = 0.0
    error: str = ""


class Flood(Team):
    """A context manager: as long as it lasts, somebody is loud.

    Raises:
        PortaskError: the broker refused something or hung up.
    """

    def __init__(self, port: int, size: int, count: int) -> None:
        super().__init__("portask_lab.loadgen.flood", [(str(port), str(size), str(count))])
        (ready,) = self.ask([None], Report)
        if ready.error:
            raise PortaskError(ready.error)

    def stop(self) -> Report:
        """Ends it; what it came to."""
        (found,) = self.ask([None], Report)
        if found.error:
            raise PortaskError(found.error)
        return found


def main() -> None:
    """Its process."""
    port, size, count = map(int, sys.argv[1:])
    sys.stdin.readline()
    try:
        publisher, ring = Publisher(port, TOPIC), Ring(size, count, 0, window(size, count))
        publisher.send(ring.frames(0, 1))  # it is under way before it says so
        answer(Report())
        found = flood(publisher, ring)
    except PortaskError as error:
        found = Report(error=str(error))
    sys.stdin.readline()
    answer(found)


def window(size: int, count: int) -> int:
    """Publishes that may be under way."""
    return max(1, WINDOW_BYTES // (size * count))


def flood(publisher: Publisher, ring: Ring) -> Report:
    """Publishes until something comes on the standard input.

    Acks count what was taken: their correlation ids are places in the ring, which go round. Less than a round is under
    way.
    """
    sock = publisher.sock
    poller = select.poll()
    poller.register(sys.stdin, select.POLLIN)
    poller.register(sock, select.POLLIN)
    many = max(1, _CHUNK_BYTES // ring.frame_size)
    began, sent, acked, last = time.monotonic(), 1, 0, 0
    while True:
        room = ring.length // 2 - (sent - acked)
        poller.modify(sock, select.POLLIN | (select.POLLOUT if publisher.blocked or room > 0 else 0))
        for fd, event in poller.poll():
            if fd != sock.fileno():
                return Report(acked * ring.count, time.monotonic() - began)
            if event & select.POLLIN:
                publisher.read()
                acked += (publisher.acked - last) % ring.length
                last = publisher.acked
            if event & select.POLLOUT:
                publisher.flush()
                if room > 0 and not publisher.blocked:
                    frames = ring.frames(sent, min(many, room))
                    publisher.send(frames)
                    sent += len(frames) // ring.frame_size


if __name__ == "__main__":
    main()
