"""How long a storage takes to open what a killed process left.

Another process fills the log and ends itself by SIGKILL: nothing is closed in order. Its files are in the kernel's
cache, as after a crash of the broker; after a crash of the machine they would be read from the device, too.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter_ns
from typing import TYPE_CHECKING

from portask import registry
from portask.messages import Message, RecordBatch, TopicPartition
from portask.reference.codec import Cbor2Codec
from portask.registry import Entry
from portask.wire import batches
from portask_lab.workloads import Measurement, NotForThis, Params, WrongResult
from portask_lab.workloads.storage.driving import START, Driven

if TYPE_CHECKING:
    from portask_lab.corpora import Corpus

_PARTITION = TopicPartition("lab", 0)
_PAYLOAD = 1024
_IN_FLIGHT = 64
_PATIENCE = 120.0
_INDEX = "*.index"


class Recovery:
    """One opening of a log of one partition, with 1 KiB messages.

    Params:
        megabytes: Size of the log, MiB of batches.
        batch: Messages a batch.
        index: ``kept``, or ``missing``: what the log wrote down to find its way is removed, and has to be made again.
        durability: Value of `portask.contracts.Durability`.
    """

    def __init__(self, entry: Entry, corpus: Corpus, params: Params, seed: int) -> None:
        if "durable" not in entry.capabilities:
            raise NotForThis(f"{entry.label} forgets everything when its process ends")
        self.entry = entry
        self.durability = str(params["durability"])
        self.megabytes = int(params["megabytes"] or 1)
        self.batch = int(params["batch"] or 1)
        self.index_missing = params["index"] == "missing"
        self.problem = ""

    def measure(self, seconds: float) -> Measurement:
        """Fills a log, kills the filler, opens the log; ``seconds`` is not looked at."""
        with tempfile.TemporaryDirectory(prefix="portask-lab-") as folder:
            stored = fill_and_die(self.entry, self.durability, folder, self.megabytes, self.batch)
            if self.index_missing:
                _remove_indices(Path(folder))
            start = perf_counter_ns()
            driven = Driven(self.entry, self.durability, folder=folder)
            took = (perf_counter_ns() - start) / 1e9
            try:
                self.problem = _compare(driven, stored)
            finally:
                driven.close()
        return Measurement({"time": [took * 1e3], "speed": [self.megabytes * 1.048576 / took]})

    def verify(self) -> None:
        """Everything that was acknowledged is there, up to the last byte."""
        if self.problem:
            raise WrongResult(self.problem)


def fill_and_die(entry: Entry, durability: str, folder: str, megabytes: int, batch: int) -> int:
    """Lets another process fill a log in ``folder`` and end by SIGKILL; returns the records it had acknowledged.

    Raises:
        WrongResult: it ended in another way, with what it said.
    """
    filler = subprocess.run(
        [
            *(sys.executable, "-m", "portask_lab.workloads.storage.recovery"),
            *(entry.name, durability, folder, str(megabytes), str(batch)),
        ],
        capture_output=True,
        check=False,
        timeout=_PATIENCE,
    )
    if filler.returncode != -signal.SIGKILL:
        said = filler.stderr.decode(errors="replace")[-500:]
        raise WrongResult(f"the process that fills the log ended with status {filler.returncode}: {said}")
    return int(filler.stdout.split()[-1])


def main() -> None:
    """``VARIANT DURABILITY FOLDER MEGABYTES BATCH``: fills, says how many records it has, and is gone."""
    name, durability, folder, megabytes, batch = sys.argv[1:]
    driven = Driven(registry.get("storage", name), durability, folder=folder)
    count, size = int(batch), int(megabytes) << 20
    made = _batch(count)
    waiting = done = 0

    def acknowledged(_offset: int, error: BaseException | None) -> None:
        nonlocal waiting, done
        if error is not None:
            raise error
        waiting -= 1
        done += 1

    def drained() -> bool:
        return waiting < _IN_FLIGHT // 2

    for index in range(-(-size // len(made.data))):
        waiting += 1
        driven.storage.append(_PARTITION, made, START + index, acknowledged)
        driven.end_turn()
        if waiting >= _IN_FLIGHT:
            driven.wait(drained)
    driven.wait(lambda: not waiting)
    os.write(1, b"%d\n" % (done * count))
    os.kill(os.getpid(), signal.SIGKILL)


def _batch(count: int) -> RecordBatch:
    messages = [Message(b"%08d" % number * (_PAYLOAD // 8), timestamp=START) for number in range(count)]
    codec = Cbor2Codec()
    body = codec.encode(messages, START)
    return batches.parse(batches.build(body, count, codec=codec.wire_id, base_timestamp=START))


def _remove_indices(folder: Path) -> None:
    """Removes index files.

    Raises:
        NotForThis: the storage has none, so that this is no case of its own.
    """
    found = list(folder.rglob(_INDEX))
    if not found:
        raise NotForThis("this log has no index files that could be missing")
    for path in found:
        path.unlink()


def _compare(driven: Driven, stored: int) -> str:
    """What is wrong with the opened log; empty if nothing is."""
    end = driven.lookup(_PARTITION)
    if end != stored:
        return f"{stored} records were acknowledged, and {end} are there after the crash"
    last = driven.read(_PARTITION, stored - 1, 1)
    if not last or batches.parse(last[-1]).base_offset + batches.parse(last[-1]).count != stored:
        return "the last record cannot be read after the crash"
    return ""


if __name__ == "__main__":
    main()
