"""``python -m portask_lab.loadgen.relay [spin]``: the floor under every latency.

A TCP relay of the same two hops as a broker, that does nothing: what comes on the first connection is sent on
the second. In Python, with the same sockets, so that what a broker adds to it is the broker's. It sleeps in
epoll, as the brokers do; with ``spin`` it polls without ever sleeping, which shows what the wake-up alone
costs (a whole core).
"""

from __future__ import annotations

import select
import signal
import socket
import sys
from types import FrameType

from portask_lab.loadgen.processes import Child


class Relay:
    """A relay in a process of its own."""

    arguments: tuple[str, ...] = ()

    def start(self) -> Child:
        """The process, listening."""
        return Child([sys.executable, "-m", "portask_lab.loadgen.relay", *self.arguments])


class Sleeping(Relay):
    """It sleeps until something comes."""


class Spinning(Relay):
    """It never sleeps."""

    arguments = ("spin",)


def main() -> None:
    """Relays until SIGTERM, or until either side hangs up."""
    signal.signal(signal.SIGTERM, _end)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(f"ready {listener.getsockname()[1]}", flush=True)  # noqa: T201 - it is asked to say its port
        source, target = listener.accept()[0], listener.accept()[0]
    buffer = memoryview(bytearray(1 << 18))
    for sock in (source, target):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    poller = select.epoll()
    poller.register(source, select.EPOLLIN)
    timeout = 0 if "spin" in sys.argv else -1
    while True:
        if poller.poll(timeout):
            size = source.recv_into(buffer)
            if not size:
                return
            target.sendall(buffer[:size])


def _end(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit


if __name__ == "__main__":
    main()
