"""What the type of a message costs: to create, to hold, to read, to decode into.

``python -m portask_lab.workloads.message_type`` prints the table that
`reports/decisions/0002-message-type.md` quotes. It compares candidate types, not registered variants, so it
stands beside the lab's runs. Every round measures all candidates in a new random order; the table gives
medians and quartiles over the rounds.
"""

from __future__ import annotations

import gc
import random
import sys
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from statistics import quantiles
from typing import Any, NamedTuple

import cbor2
import msgspec

from portask.messages import Headers, Message

BATCH = 100
BATCHES = 100
HELD = 200_000
BASE = 1_700_000_000_000_000


class TrackedStruct(msgspec.Struct, frozen=True):
    """`Message` as the garbage collector would see it."""

    payload: bytes
    key: bytes | None = None
    headers: Headers | None = None
    timestamp: int = 0


@dataclass(frozen=True, slots=True)
class FrozenDataclass:
    """The standard library's immutable record."""

    payload: bytes
    key: bytes | None = None
    headers: Headers | None = None
    timestamp: int = 0


@dataclass(slots=True)
class MutableDataclass:
    """The same without protection from changes."""

    payload: bytes
    key: bytes | None = None
    headers: Headers | None = None
    timestamp: int = 0


class NamedTupleMessage(NamedTuple):
    """A tuple with names."""

    payload: bytes
    key: bytes | None = None
    headers: Headers | None = None
    timestamp: int = 0


def plain_tuple(
    payload: bytes, key: bytes | None, headers: Headers | None, timestamp: int
) -> tuple[Any, ...]:
    """Stands for the tuple display, which has no constructor to call; `Candidate` measures the display itself."""
    return (payload, key, headers, timestamp)


Make = Callable[[bytes, bytes | None, Headers | None, int], Any]
CANDIDATES: dict[str, Make] = {
    "msgspec.Struct(frozen, gc=False)": Message,
    "msgspec.Struct(frozen)": TrackedStruct,
    "dataclass(frozen, slots)": FrozenDataclass,
    "dataclass(slots)": MutableDataclass,
    "NamedTuple": NamedTupleMessage,
    "tuple": plain_tuple,
}
COLUMNS = ("create ns", "create, keep ns", "read 4 ns", "decode ns", "hold B", "collect ms")
"""Per message: creating; creating among 200,000 that are kept; reading all fields; decoding in batches of 100;
bytes beside the payload. Last, for all: one full collection while 200,000 are held."""


def _create(make: Make, payloads: list[bytes]) -> float:
    """One after the other, each freed before the next: the constructor alone."""
    start = time.perf_counter_ns()
    if make is plain_tuple:
        for payload in payloads:
            (payload, None, None, BASE)  # noqa: B018 - what is measured
    else:
        for payload in payloads:
            make(payload, None, None, BASE)
    return (time.perf_counter_ns() - start) / len(payloads)


def _hold(make: Make, payloads: list[bytes]) -> list[Any]:
    if make is plain_tuple:
        return [(payload, None, None, BASE) for payload in payloads]
    return [make(payload, None, None, BASE) for payload in payloads]


def _read(make: Make, held: list[Any]) -> float:
    start = time.perf_counter_ns()
    if make is plain_tuple:
        for message in held:
            message[0], message[1], message[2], message[3]
    else:
        for message in held:
            message.payload, message.key, message.headers, message.timestamp  # noqa: B018 - what is measured
    return (time.perf_counter_ns() - start) / len(held)


def _decode(make: Make, bodies: list[bytes]) -> float:
    """Batches of 100 CBOR records into a list of messages: what a consumer pays."""
    start = time.perf_counter_ns()
    if make is plain_tuple:
        for body in bodies:
            [(payload, key, headers, BASE + delta) for delta, key, headers, payload in cbor2.loads(body)]
    else:
        for body in bodies:
            [make(payload, key, headers, BASE + delta) for delta, key, headers, payload in cbor2.loads(body)]
    return (time.perf_counter_ns() - start) / (BATCH * len(bodies))


def _round(make: Make, payloads: list[bytes], bodies: list[bytes]) -> tuple[float, ...]:
    """One figure a column, in their order. The collector runs as it does in an application, except where said."""
    gc.collect()
    created = _create(make, payloads)
    start = time.perf_counter_ns()
    held = _hold(make, payloads)
    kept = (time.perf_counter_ns() - start) / len(payloads)
    gc.collect()  # the first collection untracks exact tuples of plain values; later ones are the steady state
    start = time.perf_counter_ns()
    gc.collect()
    collected = (time.perf_counter_ns() - start) / 1e6
    read = _read(make, held)
    del held
    gc.collect()
    decoded = _decode(make, bodies)
    tracemalloc.start()
    few = _hold(make, payloads[:20_000])
    size = tracemalloc.get_traced_memory()[0] / len(few) - 8  # the list's own slot
    tracemalloc.stop()
    return created, kept, read, decoded, size, collected


def measure(rounds: int, seed: int = 1) -> dict[str, list[tuple[float, ...]]]:
    """``rounds`` rows of `COLUMNS` for every candidate."""
    chance = random.Random(seed)
    payloads = [chance.randbytes(64) for _ in range(HELD)]
    rows = [
        [[BASE % 977 + i, None, None, payload] for i, payload in enumerate(payloads[:BATCH])]
        for _ in range(BATCHES)
    ]
    bodies = [cbor2.dumps(batch) for batch in rows]
    found: dict[str, list[tuple[float, ...]]] = {name: [] for name in CANDIDATES}
    gc.freeze()  # so that a collection looks at the messages held, not at everything else in this process
    try:
        for _ in range(rounds):
            order = list(CANDIDATES.items())
            chance.shuffle(order)
            for name, make in order:
                found[name].append(_round(make, payloads, bodies))
    finally:
        gc.unfreeze()
    return found


def main() -> None:
    """Prints the table. Takes about a minute; an argument sets the number of rounds."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    found = measure(rounds)
    lines = [
        f"CPython {sys.version.split()[0]}, msgspec {msgspec.__version__}, {rounds} rounds: median (quartiles)",
        "",
        f"{'':34}" + "".join(f"{column:>20}" for column in COLUMNS),
    ]
    for name, rows in found.items():
        cells = []
        for values in zip(*rows, strict=True):
            low, middle, high = quantiles(values, n=4)
            digits = 0 if middle >= 20 else 1
            cells.append(f"{middle:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})")
        lines.append(f"{name:34}" + "".join(f"{cell:>20}" for cell in cells))
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
