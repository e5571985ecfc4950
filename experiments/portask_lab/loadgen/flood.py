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
        publisher, ring = Publisher(port, TOPIC), Ring(size, count, 0, 1)
        publisher.send(ring.frames(0, 1))  # it is under way before it says so
        answer(Report())
        found = flood(publisher, ring)
    except PortaskError as error:
        found = Report(error=str(error))
    sys.stdin.readline()
    answer(found)


def flood(publisher: Publisher, ring: Ring) -> Report:
    """Publishes until something comes on the standard input.

    Acks count what was taken: their correlation ids are places in the ring, which go round.
    """
    sock = publisher.sock
    poller = select.poll()
    poller.register(sys.stdin, select.POLLIN)
    poller.register(sock, select.POLLIN | select.POLLOUT)
    many = max(1, _CHUNK_BYTES // ring.frame_size)
    began, sent, laps, last = time.monotonic(), 1, 0, 0
    while True:
        for fd, event in poller.poll():
            if fd != sock.fileno():
                return Report((laps * ring.length + last) * ring.count, time.monotonic() - began)
            if event & select.POLLIN:
                publisher.read()
                if publisher.acked < last:
                    laps += 1
                last = publisher.acked
            if event & select.POLLOUT:
                publisher.flush()
                if not publisher.blocked:
                    frames = ring.frames(sent, many)
                    publisher.send(frames)
                    sent += len(frames) // ring.frame_size


if __name__ == "__main__":
    main()
