"""Compression: what a smaller batch costs, per corpus and batch size, and what a strategy does as the load changes.

The unit of work is a byte of raw record area. Record areas are made by the reference codec from batches of real
messages. A strategy that asks for larger ones (``coalesce``) gets neighbouring areas joined beforehand, as its
callers would gather them. A strategy that wants samples to train a dictionary gets the first half of the corpus;
everybody is measured on the second half, which it has not seen. A batch that a strategy leaves alone counts with its
raw size: ratios are what a consumer's link would carry.

The row ``ceiling/copy`` copies the bytes: nothing that makes a new buffer can be faster.
"""

from __future__ import annotations

import inspect
import time
from typing import TYPE_CHECKING, Any

from portask.contracts import Packed
from portask.messages import Buffer
from portask.registry import REFERENCE, Entry
from portask_lab.workloads import (
    LoadTrace,
    Measurement,
    Metric,
    NotForThis,
    Params,
    Plan,
    Workload,
    WrongResult,
    Yardstick,
)

if TYPE_CHECKING:
    from portask_lab.corpora import Corpus

LOAD = 0.5
"""The load that strategies are told outside of traces."""
PHASES = (
    ("idle", 0.05, 0.05, 40),
    ("ramp", 0.05, 1.0, 60),
    ("saturated", 1.0, 1.0, 40),
    ("idle again", 0.05, 0.05, 40),
)
"""Name, load at the start, load at the end, steps."""
STEP = 8
"""Batches in a step of the trace."""


class Copy:
    """Makes a new buffer with the same bytes, and nothing else."""

    coalesce = 0

    def pack(self, raw: Buffer, load: float) -> Packed:
        """A copy."""
        return Packed(0, 0, bytearray(raw))


_COPY = Yardstick(
    "ceiling", Entry("compression", "copy", "portask_lab.workloads.compression:Copy", "a plain copy")
)
_RATE = Metric("rate", "MB/s", "higher", 0, scale=1e-6)
_RATIO = Metric("ratio", "x", "higher", 2)
_SHARE = Metric("compressed", "%", "none", 0)


def _areas(corpus: Corpus, batch: int) -> list[bytes]:
    codec = next(entry for entry in REFERENCE if entry.family == "codec").make()
    half = type(corpus)(name=corpus.name, payloads=corpus.payloads[len(corpus) // 2 :])
    return [bytes(codec.encode(group, group[0].timestamp)) for group in half.batches(batch)]


def _gather(areas: list[bytes], size: int) -> list[bytes]:
    gathered, open_, held = [], [], 0
    for area in areas:
        open_.append(area)
        held += len(area)
        if held >= size:
            gathered.append(b"".join(open_))
            open_, held = [], 0
    return gathered or [b"".join(open_)]


class _Strategy:
    """A strategy and the record areas that it is given.

    Params:
        batch: Messages a batch.
    """

    def __init__(self, entry: Entry, corpus: Corpus, params: Params, seed: int) -> None:
        target = entry.load()
        options: dict[str, Any] = {}
        if "samples" in inspect.signature(target).parameters:
            options["samples"] = corpus.payloads[: max(1, len(corpus) // 2)]
        self.strategy = entry.make(**options)
        self.areas = _areas(corpus, int(params["batch"] or 1))
        if self.strategy.coalesce:
            self.areas = _gather(self.areas, self.strategy.coalesce)

    def unpack(self, packed: Packed, raw_length: int) -> bytes:
        """The way back, by the broker's own bounded reader."""
        from portask.wire.compression import attributes_for, decompress  # noqa: PLC0415 - with its libraries

        attributes = attributes_for(packed.algorithm, packed.dictionary)
        return decompress(attributes, packed.data, raw_length, getattr(self.strategy, "dictionaries", None))

    def verify(self) -> None:
        """Every area comes back as it was."""
        for area in self.areas:
            packed = self.strategy.pack(area, LOAD)
            if packed is not None and self.unpack(packed, len(area)) != area:
                raise WrongResult("a record area did not come back as it was packed")


class Pack(_Strategy):
    """``pack`` of the next area an iteration; work is raw bytes."""

    def run(self, iterations: int) -> int:
        """Packs the next ``iterations`` areas."""
        pack, areas = self.strategy.pack, self.areas
        count, done = len(areas), 0
        for index in range(iterations):
            area = areas[index % count]
            pack(area, LOAD)
            done += len(area)
        return done

    def extras(self) -> dict[str, float]:
        """Raw ÷ packed bytes over all areas, and the share of areas that were compressed."""
        packed = [self.strategy.pack(area, LOAD) for area in self.areas]
        out = sum(
            len(area if each is None else each.data) for area, each in zip(self.areas, packed, strict=True)
        )
        compressed = sum(each is not None and each.algorithm != 0 for each in packed)
        return {"ratio": sum(map(len, self.areas)) / out, "compressed": 100 * compressed / len(packed)}


class Unpack(_Strategy):
    """The bounded way back of the next packed area an iteration; work is raw bytes."""

    def __init__(self, entry: Entry, corpus: Corpus, params: Params, seed: int) -> None:
        super().__init__(entry, corpus, params, seed)
        packed = [(self.strategy.pack(area, LOAD), len(area)) for area in self.areas]
        self.packed = [(each, size) for each, size in packed if each is not None]
        if not self.packed:
            raise NotForThis(f"{entry.label} leaves all these batches as they are")

    def run(self, iterations: int) -> int:
        """Unpacks the next ``iterations`` areas."""
        unpack, packed = self.unpack, self.packed
        count, done = len(packed), 0
        for index in range(iterations):
            done += len(unpack(*packed[index % count]))
        return done


class UnderLoad(_Strategy):
    """A load trace: idle, ramp, saturated, idle again; what the strategy chose, and what it cost.

    Only for strategies that have a ``level``. Load is what they are told; CPU time is what they really took.
    """

    def __init__(self, entry: Entry, corpus: Corpus, params: Params, seed: int) -> None:
        super().__init__(entry, corpus, params, seed)
        if not hasattr(self.strategy, "level"):
            raise NotForThis(f"{entry.label} chooses no level")

    def measure(self, seconds: float) -> Measurement:
        """Steps through `PHASES`."""
        trace = LoadTrace([], [], [], [], [], [])
        pack, areas = self.strategy.pack, self.areas
        at, began = 0, time.perf_counter()
        for name, first, last, steps in PHASES:
            for step in range(steps):
                load = first + (last - first) * step / max(1, steps - 1)
                raw = out = 0
                cpu = time.thread_time()
                for _ in range(STEP):
                    area = areas[at % len(areas)]
                    at += 1
                    packed = pack(area, load)
                    raw += len(area)
                    out += len(area if packed is None else packed.data)
                trace.cpu.append(time.thread_time() - cpu)
                trace.phase.append(name)
                trace.time.append(time.perf_counter() - began)
                trace.load.append(load)
                trace.level.append(float(self.strategy.level))
                trace.raw.append(raw)
                trace.packed.append(out)
        metrics = {}
        for phase in ("idle", "saturated"):
            chosen = [index for index, name in enumerate(trace.phase) if name == phase]
            raw, out = (sum(values[index] for index in chosen) for values in (trace.raw, trace.packed))
            metrics[f"{phase}_ratio"] = [raw / out]
            metrics[f"{phase}_cost"] = [sum(trace.cpu[index] for index in chosen) * 1e9 / raw]
        return Measurement(metrics, trace=trace)


WORKLOADS: tuple[Workload, ...] = (
    Workload("compression.pack", "compression", "Pack", "compress", (_RATE, _RATIO, _SHARE), (_COPY,)),
    Workload("compression.unpack", "compression", "Unpack", "decompress", (_RATE,), (_COPY,)),
    Workload(
        "compression.trace",
        "compression",
        "UnderLoad",
        "idle, ramp, saturated, idle",
        (
            Metric("idle_ratio", "x", "higher", 2),
            Metric("idle_cost", "ns/B", "none", 2),
            Metric("saturated_ratio", "x", "none", 2),
            Metric("saturated_cost", "ns/B", "lower", 2),
        ),
    ),
)
_ALL: tuple[Params, ...] = ({"batch": 10}, {"batch": 100}, {"batch": 1000})
PLANS: tuple[Plan, ...] = (
    Plan("compression", "compression.pack", ("real", "random"), ({"batch": 100},), _ALL),
    Plan("compression", "compression.unpack", ("real", "random"), ({"batch": 100},), _ALL),
    Plan("compression", "compression.pack", ("main", "tiny"), ({"batch": 10},), ()),
    Plan("compression", "compression.unpack", ("main", "tiny"), ({"batch": 10},), ()),
    Plan("compression", "compression.trace", ("main",), ({"batch": 100},), full_corpora=("real",)),
)
