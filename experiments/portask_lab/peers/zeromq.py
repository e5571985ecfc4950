"""ZeroMQ: PUSH to PULL through a device, so that there are two hops as with a broker.

PUSH and PULL block when the other side is slow, where PUB and SUB would drop. The device (``python -m
portask_lab.peers.zeromq``) is the library's own proxy: its loop runs in C.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from portask_lab.loadgen.processes import Child
from portask_lab.peers import Deliver

if TYPE_CHECKING:
    import zmq


class ZeroMq:
    """Plain sockets, not ``zmq.asyncio``'s: those cost a future a message."""

    batch = 500
    note = "peer/zeromq: no acknowledgement, nothing is kept; its I/O threads share the generator's core"

    def __init__(self) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._push: zmq.Socket[bytes] | None = None
        self._pull: zmq.Socket[bytes] | None = None

    def start(self) -> Child:
        """See `Product.start`. Its port takes the publisher; the one above that number the subscriber."""
        return Child([sys.executable, "-m", "portask_lab.peers.zeromq"])

    async def connect(self, port: int, deliver: Deliver) -> None:
        """See `Product.connect`."""
        import zmq  # noqa: PLC0415 - optional, or only here

        self._context = zmq.Context()
        push, pull = self._context.socket(zmq.PUSH), self._context.socket(zmq.PULL)
        self._push, self._pull = push, pull
        for sock in (push, pull):
            sock.linger = 0
        push.connect(f"tcp://127.0.0.1:{port}")
        pull.connect(f"tcp://127.0.0.1:{port + 1}")
        receive, nowait, empty = pull.recv, zmq.NOBLOCK, zmq.Again

        def arrived() -> None:
            # Its descriptor tells once that something came, not that something is there: so take all.
            found: list[bytes] = []
            with contextlib.suppress(empty):
                while True:
                    found.append(receive(nowait))
            if found:
                deliver(found)

        asyncio.get_running_loop().add_reader(pull.fileno(), arrived)
        await asyncio.sleep(0.05)

    async def send(self, payloads: Sequence[bytes]) -> None:
        """See `Product.send`."""
        import zmq  # noqa: PLC0415 - optional, or only here

        assert self._push is not None  # noqa: S101 - for the type checker
        send, nowait = self._push.send, zmq.NOBLOCK
        for payload in payloads:
            while True:
                try:
                    send(payload, nowait)
                except zmq.Again:
                    await asyncio.sleep(0)
                else:
                    break

    async def close(self) -> None:
        """See `Product.close`."""
        if self._pull is not None:
            asyncio.get_running_loop().remove_reader(self._pull.fileno())
        for sock in (self._push, self._pull):
            if sock is not None:
                sock.close()
        if self._context is not None:
            self._context.term()


def main() -> None:
    """The device: everything from one port to the other."""
    import zmq  # noqa: PLC0415 - optional, or only here

    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    context = zmq.Context()
    for _ in range(100):
        front, back = context.socket(zmq.PULL), context.socket(zmq.PUSH)
        port = front.bind_to_random_port("tcp://127.0.0.1")
        try:
            back.bind(f"tcp://127.0.0.1:{port + 1}")
        except zmq.ZMQError:  # the port above is taken
            front.close()
            back.close()
            continue
        print(f"ready {port}", flush=True)  # noqa: T201 - it is asked to say its port
        zmq.proxy(front, back)


if __name__ == "__main__":
    main()
