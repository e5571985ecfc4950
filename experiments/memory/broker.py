"""A whole broker under memray, by server variant, while the lab's lean generator saturates it.

The broker is a process of its own, as always in the lab. It warms up with a load; at SIGUSR1 it marks the recording,
the load comes again, and at SIGUSR1 it makes the other mark. What is counted therefore includes the set-up of two
connections, and the messages stay: the reference storage keeps them in memory, so the peak is for each of all. A turn
handles what has arrived, so a faster machine has larger turns and slightly fewer allocations a message.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
import threading
import time
from importlib import import_module
from pathlib import Path

from memory.recording import Recorded, Task, blindfolded, mark, tracker
from portask_lab.loadgen import broker
from portask_lab.loadgen.processes import Child
from portask_lab.workloads import NotForThis, Params

WARM_UP = 0.2
SECONDS = 0.3
IN_FLIGHT = 2_000
"""Messages under way."""
PATIENCE = 5.0
"""Seconds that the broker may take to heed a signal."""


def record(task: Task, params: Params) -> Recorded:
    """The figures of the broker; ``task.variant`` is the server.

    Raises:
        WrongResult: the broker lost, repeated or altered something.
        NotForThis: a row that is no broker.
    """
    if "/" in task.variant:
        raise NotForThis(f"{task.variant} is no broker")
    with tempfile.TemporaryDirectory() as folder:
        capture = Path(folder, "memray.bin")
        received = _load(task.variant, capture, params, "blindfolded")
        if task.capture:
            _load(task.variant, Path(task.capture), params, "seeing")
        return Recorded.of(task, capture, "message", received, received)


def _load(variant: str, capture: Path, params: Params, sight: str) -> int:
    """Messages received by the consumer in the part that counts."""
    from portask_lab.workloads.network.latency import saturate  # noqa: PLC0415 - the broker's process needs no load

    size, batch = int(params["size"] or 0), int(params["batch"] or 0)
    in_flight = max(4, IN_FLIGHT // batch)
    parts = broker.encoded({"server": (variant, {}), "storage": ("memory", {})})
    with Child([sys.executable, str(Path(__file__).resolve()), parts, sight, str(capture)]) as child:
        saturate(child, size, batch, in_flight, WARM_UP, 1)
        _signal(child, capture.with_suffix(".begun"))
        found = saturate(child, size, batch, in_flight, SECONDS, 1)
        _signal(child, capture.with_suffix(".ended"))
    return found.received


def _signal(child: Child, sign: Path) -> None:
    """SIGUSR1, and waits until the broker says that it is done."""
    os.kill(child.pid, signal.SIGUSR1)
    deadline = time.monotonic() + PATIENCE
    while not sign.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"the broker did not heed SIGUSR1 within {PATIENCE:g} s: {child.said()}")
        time.sleep(0.005)
    sign.unlink()


def main() -> None:
    """The broker's process."""
    capture, sight = Path(sys.argv.pop()), sys.argv.pop()
    signs = [capture.with_suffix(".begun"), capture.with_suffix(".ended")]
    import_module("portask.server.build")  # what it allocates is nobody's message

    with contextlib.ExitStack() as recording:

        def heed(_number: int, _frame: object) -> None:
            if sight == "blindfolded":
                mark()
            elif len(signs) == 2:
                recording.enter_context(tracker(capture))
            else:
                recording.close()
            signs.pop(0).touch()

        signal.signal(signal.SIGUSR1, heed)
        if sight == "seeing":
            broker.main()
            return
        with blindfolded(), tracker(capture):
            threading.setprofile(None)  # for the threads that the broker starts
            broker.main()


if __name__ == "__main__":
    main()
