"""The server `native-uring`: the reactor of `native-epoll`, but that io_uring moves the bytes.

A pass of the loop is one system call: it submits what is to be sent to whomever, waits, and brings what arrived
meanwhile, which the kernel has put into buffers by itself. It pays where many connections are busy in the same turn.
"""

from __future__ import annotations

from typing import Literal

from portask_native import why_not as not_compiled
from portask_native.epoll import NativeEpollServer


def why_not() -> str | None:
    """Why it cannot be used; ``None`` when it can. Asks the kernel, by making a ring."""
    reason = not_compiled()
    if reason is not None:
        return reason
    from portask_native._native import why_no_uring  # noqa: PLC0415 - it may not be compiled

    return why_no_uring()


class NativeUringServer(NativeEpollServer):
    """See the module's text. Receive buffers are 64 of 32 KiB.

    Args:
        idle: What to do until something arrives; see `NativeEpollServer`.
        spin_us: µs that ``"spin-then-sleep"`` polls.
        grace: Seconds that clients get to finish when the server stops, and to read the rest when they are
            hung up on.
        backlog: Connections that may wait to be accepted.

    Raises:
        ValueError: There is no such ``idle``.
    """

    _by = "uring"

    def __init__(
        self,
        idle: Literal["sleep", "spin-then-sleep", "spin"] = "sleep",
        spin_us: int = 50,
        grace: float = 5.0,
        backlog: int = 4096,
    ) -> None:
        super().__init__(idle=idle, spin_us=spin_us, grace=grace, backlog=backlog)
