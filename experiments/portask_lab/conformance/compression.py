"""What every compression strategy must keep to: what it packs comes back whole, alone, and within bounds.

The way back is `portask.wire.compression.decompress`; the checks also lie to it about what the strategy made.
"""

from __future__ import annotations

import inspect
import json
import random
import tracemalloc
from collections.abc import Iterator, Sequence
from functools import cache

from portask.contracts import Compression, Packed
from portask.errors import BatchCorrupt, BatchError
from portask.messages import Buffer
from portask.registry import Entry
from portask.wire.compression import Dictionaries, attributes_for, decompress
from portask_lab.conformance.suite import Check, NotApplicable, Violation, check, require

SUITE: list[Check] = []
LOADS = (0.0, 0.5, 1.0)
CALLS = 1500


def make(entry: Entry, samples: Sequence[Buffer]) -> Compression:
    """A strategy that has all it needs: one with an option ``samples`` learns from them, others do not."""
    learns = "samples" in inspect.signature(entry.load()).parameters
    strategy: Compression = entry.make(samples=samples) if learns else entry.make()
    return strategy


def dictionaries_of(strategy: Compression) -> Dictionaries | None:
    """What a reader needs to read this strategy's batches: its ``dictionaries``, if it has any."""
    found = getattr(strategy, "dictionaries", None)
    require(found is None or isinstance(found, Dictionaries), f"`dictionaries` is {found!r}, no Dictionaries")
    return found


@cache
def _inputs() -> dict[str, bytes]:
    chance = random.Random(20)
    lines = _lines(4000, chance)
    return {
        "nothing": b"",
        "one byte": b"x",
        "7 bytes": b"portask",
        "one record": lines[0],
        "text": b"the quick brown fox jumps over the lazy dog; " * 40,
        "JSON lines": b"\n".join(lines[:200]),
        "zeros": bytes(20_000),
        "random": chance.randbytes(4096),
        "random, then zeros": chance.randbytes(3000) + bytes(3000),
        "1 MiB of JSON lines": (b"\n".join(lines) * 8)[: 1 << 20],
    }


def _lines(count: int, chance: random.Random) -> list[bytes]:
    kinds = ("created", "paid", "shipped", "returned")
    countries = ("NL", "TR", "BR")
    return [
        json.dumps({
            "id": chance.getrandbits(48),
            "kind": chance.choice(kinds),
            "customer": {"name": f"customer-{chance.randrange(500)}", "country": chance.choice(countries)},
            "amount": chance.randrange(100_000) / 100,
            "note": None,
        }).encode()
        for _ in range(count)
    ]  # fmt: skip


def _made(entry: Entry) -> Compression:
    return make(entry, _lines(400, random.Random(7)))


def _unpack(packed: Packed, raw_length: int, dictionaries: Dictionaries | None) -> bytes:
    return decompress(
        attributes_for(packed.algorithm, packed.dictionary), packed.data, raw_length, dictionaries
    )


def _packed(entry: Entry) -> Iterator[tuple[str, bytes, Packed, Dictionaries | None]]:
    """Everything that the strategy packs when it has nothing else to do."""
    strategy = _made(entry)
    found = False
    for name, raw in _inputs().items():
        packed = strategy.pack(raw, 0.0)
        if packed is not None:
            found = True
            yield name, raw, packed, dictionaries_of(strategy)
    if not found:
        raise NotApplicable("packs nothing, not even at load 0")


@check(SUITE)
def round_trips(entry: Entry) -> None:
    """Whatever it packs unpacks to the same bytes, at any load."""
    strategy = _made(entry)
    for load in LOADS:
        for name, raw in _inputs().items():
            packed = strategy.pack(raw, load)
            if packed is not None:
                back = _unpack(packed, len(raw), dictionaries_of(strategy))
                require(back == raw, f"{name} at load {load} came back as {len(back):,} other bytes")


@check(SUITE)
def packs_only_what_shrinks(entry: Entry) -> None:
    """A result is smaller than what came in; otherwise it is `None`."""
    strategy = _made(entry)
    for load in LOADS:
        for name, raw in _inputs().items():
            packed = strategy.pack(raw, load)
            if packed is not None:
                require(
                    len(packed.data) < len(raw), f"{name}: {len(raw):,} bytes became {len(packed.data):,}"
                )
    for size in (0, 1, 100, 5000):
        noise = random.Random(size).randbytes(size)
        require(
            strategy.pack(noise, 0.0) is None, f"{size:,} random bytes were packed; nothing can shrink them"
        )


@check(SUITE)
def names_what_readers_know(entry: Entry) -> None:
    """Algorithm and dictionary of every result are valid, and the dictionary is offered to readers."""
    for name, _, packed, dictionaries in _packed(entry):
        attributes_for(packed.algorithm, packed.dictionary)
        if packed.dictionary:
            require(
                dictionaries and packed.dictionary in dictionaries,
                f"{name}: no reader can have the dictionary",
            )


@check(SUITE)
def results_stand_alone(entry: Entry) -> None:
    """Each result unpacks without the ones before it, in any order."""
    strategy = _made(entry)
    packed = [(raw, strategy.pack(raw, 0.0)) for raw in _inputs().values() for _ in range(3)]
    random.Random(3).shuffle(packed)
    for raw, result in packed:
        if result is not None:
            require(
                _unpack(result, len(raw), dictionaries_of(strategy)) == raw,
                "a result depends on earlier ones",
            )


@check(SUITE)
def takes_views_and_keeps_none(entry: Entry) -> None:
    """A memoryview is packed like bytes; afterwards its buffer is free to change and to shrink."""
    strategy = _made(entry)
    for name, raw in _inputs().items():
        buffer = bytearray(raw)
        with memoryview(buffer) as view:
            packed = strategy.pack(view, 0.0)
        buffer[:] = bytes(len(buffer))
        try:
            buffer.clear()
        except BufferError:
            raise Violation(f"{name}: the strategy still holds a view of the batch after pack") from None
        if packed is not None:
            back = _unpack(packed, len(raw), dictionaries_of(strategy))
            require(back == raw, f"{name}: the result changed when the batch's buffer did")


@check(SUITE)
def wrong_lengths_are_refused(entry: Entry) -> None:
    """A declared raw length that is not the real one is `BatchCorrupt`, however far off."""
    for name, raw, packed, dictionaries in _packed(entry):
        for lie in (0, 1, len(raw) - 1, len(raw) + 1, 2 * len(raw), 1 << 31, (1 << 32) - 1):
            _refused(packed, lie, dictionaries, f"{name}: {len(raw):,} raw bytes declared as {lie:,}")


@check(SUITE)
def cut_or_extended_data_is_refused(entry: Entry) -> None:
    """Data cut anywhere, or with bytes after its end, is `BatchCorrupt`."""
    for name, raw, packed, dictionaries in _packed(entry):
        data = bytes(packed.data)
        cuts = {*range(min(len(data), 20)), *range(0, len(data), len(data) // 20 + 1), len(data) - 1}
        for cut in cuts:
            short = packed._replace(data=data[:cut])
            _refused(short, len(raw), dictionaries, f"{name}: cut after {cut:,} of {len(data):,} bytes")
        for tail in (b"\0", data):
            longer = packed._replace(data=data + tail)
            _refused(longer, len(raw), dictionaries, f"{name}: {len(tail):,} bytes appended")


@check(SUITE)
def damage_never_escapes(entry: Entry) -> None:
    """Flipped bits give a `BatchError` or as many bytes as declared (for the batch checksum to find)."""
    chance = random.Random(11)
    for name, raw, packed, dictionaries in _packed(entry):
        for _ in range(20):
            data = bytearray(packed.data)
            for _ in range(chance.randint(1, 3)):
                data[chance.randrange(min(len(data), 2000))] ^= 1 << chance.randrange(8)
            try:
                back = _unpack(packed._replace(data=data), len(raw), dictionaries)
            except BatchError:
                continue
            require(len(back) == len(raw), f"{name}: damaged data gave {len(back):,} of {len(raw):,} bytes")


@check(SUITE)
def holds_no_history(entry: Entry) -> None:
    """Many calls, at changing load and with changing data, leave no growing memory behind."""
    strategy = _made(entry)
    chance = random.Random(5)
    batches = [
        *(b"\n".join(_lines(3, chance)) for _ in range(20)),
        *(chance.randbytes(600) for _ in range(10)),
    ]
    for call in range(CALLS):
        strategy.pack(batches[call % len(batches)], call % 11 / 10)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for call in range(CALLS):
            strategy.pack(batches[call % len(batches)], call % 11 / 10)
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    require(grown < 16 * CALLS, f"{CALLS:,} calls left {grown:,} bytes behind")


@check(SUITE)
def states_how_much_to_gather(entry: Entry) -> None:
    """`coalesce` is a number of bytes, 0 or more, that stays the same."""
    strategy = _made(entry)
    before = strategy.coalesce
    require(before >= 0, f"coalesce is {before!r}")
    strategy.pack(_inputs()["JSON lines"], 0.0)
    require(strategy.coalesce == before, f"coalesce changed from {before} to {strategy.coalesce}")


def _refused(packed: Packed, raw_length: int, dictionaries: Dictionaries | None, what: str) -> None:
    try:
        _unpack(packed, raw_length, dictionaries)
    except BatchCorrupt:
        return
    raise Violation(f"{what}: unpacked without an error")
