"""Serialization: messages to record areas and back, batch after batch over a rotated corpus.

One message over and over would flatter every cache, so each iteration takes the next batch of at least a
thousand different messages. The loop around the codec is the same for all; the row ``floor/empty-loop`` runs
it with a codec that does nothing, and is printed, not subtracted.

A codec may make messages only when they are looked at. ``decode`` and ``roundtrip`` take all of them, as a consumer
does; ``sift`` looks at one in ten, as a consumer that skips most.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

from portask.messages import Buffer, Message
from portask.registry import Entry
from portask_lab.workloads import Metric, Params, Plan, Workload, WrongResult, Yardstick

if TYPE_CHECKING:
    from portask_lab.corpora import Corpus


class EmptyCodec:
    """A codec that does no work: what remains is the loop and the call."""

    wire_id = 0

    def encode(self, messages: Sequence[Message], base_timestamp: int) -> Buffer:
        """Nothing."""
        return b""

    def decode(self, body: Buffer, count: int, base_timestamp: int) -> Sequence[int]:
        """Nothing, as often as asked."""
        return range(count)


_EMPTY = Yardstick(
    "floor",
    Entry(
        "codec", "empty-loop", "portask_lab.workloads.codec:EmptyCodec", "the loop around the codec, alone"
    ),
)
_RATE = Metric("rate", "msg/s", "higher")
_SIZE = Metric("size", "B/msg", "lower", 1)
_OVERHEAD = Metric("overhead", "B/msg", "lower", 2)


class _Codec:
    """What the three workloads share: batches, their encoded form, and the proof that both agree."""

    def __init__(self, entry: Entry, corpus: Corpus, params: Params, seed: int) -> None:
        self.codec = entry.make()
        self.idle = entry.name == _EMPTY.entry.name
        batch = int(params["batch"] or 1)
        self.batches = corpus.batches(batch, keyed=bool(params.get("keyed")))
        self.count = batch
        self.bases = [batch[0].timestamp for batch in self.batches]
        self.bodies = [
            bytes(self.codec.encode(batch, base))
            for batch, base in zip(self.batches, self.bases, strict=True)
        ]
        self.source = cycle(list(zip(self.batches, self.bases, self.bodies, strict=True)))

    def verify(self) -> None:
        """Every batch decodes to the messages that it was made of."""
        if self.idle:
            return
        for batch, base, body in zip(self.batches, self.bases, self.bodies, strict=True):
            if list(self.codec.decode(body, len(batch), base)) != batch:
                raise WrongResult("a batch did not decode to the messages it was encoded from")


class Encode(_Codec):
    """``encode`` of one batch an iteration; work is messages."""

    def run(self, iterations: int) -> int:
        """Encodes the next ``iterations`` batches."""
        encode = self.codec.encode
        for _, (batch, base, _) in zip(range(iterations), self.source, strict=False):
            encode(batch, base)
        return iterations * self.count

    def extras(self) -> dict[str, float]:
        """Bytes a message, and how many of them are not payload."""
        if self.idle:
            return {}
        size = sum(map(len, self.bodies))
        payload = sum(len(message.payload) for batch in self.batches for message in batch)
        messages = self.count * len(self.batches)
        return {"size": size / messages, "overhead": (size - payload) / messages}


def _made(found: Sequence[Any]) -> int:
    """How many messages there are, every one of them made."""
    return len(found if type(found) in _MADE else list(found))


_MADE = (list, range)  # what needs no copy to be sure of it


class Decode(_Codec):
    """``decode`` of one batch an iteration; work is messages that came out."""

    def run(self, iterations: int) -> int:
        """Decodes the next ``iterations`` batches."""
        decode, count = self.codec.decode, self.count
        done = 0
        for _, (_, base, body) in zip(range(iterations), self.source, strict=False):
            done += _made(decode(body, count, base))
        return done


class RoundTrip(_Codec):
    """``decode(encode(batch))`` an iteration; work is messages that came out."""

    def run(self, iterations: int) -> int:
        """Encodes and decodes the next ``iterations`` batches."""
        encode, decode, count = self.codec.encode, self.codec.decode, self.count
        done = 0
        for _, (batch, base, _) in zip(range(iterations), self.source, strict=False):
            done += _made(decode(encode(batch, base), count, base))
        return done


class Sift(_Codec):
    """``decode`` of one batch an iteration, of which every tenth message is looked at; work is messages decoded."""

    def run(self, iterations: int) -> int:
        """Decodes the next ``iterations`` batches."""
        decode, count = self.codec.decode, self.count
        done = 0
        for _, (_, base, body) in zip(range(iterations), self.source, strict=False):
            found = decode(body, count, base)
            for index in range(0, count, 10):
                if len(found[index].payload) > len(body):
                    raise WrongResult("a payload is larger than the batch that it came in")
            done += len(found)
        return done


def _workload(what: str, target: str, title: str, *more: Metric) -> Workload:
    return Workload(f"codec.{what}", "codec", target, title, (_RATE, *more), (_EMPTY,))


WORKLOADS: tuple[Workload, ...] = (
    _workload("encode", "Encode", "encode", _SIZE, _OVERHEAD),
    _workload("decode", "Decode", "decode"),
    _workload("roundtrip", "RoundTrip", "encode and decode"),
    Workload("codec.sift", "codec", "Sift", "decode, look at one message in ten", (_RATE,)),
)


def _plans() -> tuple[Plan, ...]:
    every: list[Any] = []
    one, hundred = {"batch": 1}, {"batch": 100}
    for workload in WORKLOADS[:3]:
        every += [
            Plan("serialization", workload.name, ("tiny", "real", "random"), (hundred,)),
            Plan("serialization", workload.name, ("tiny",), (one,), full_corpora=("tiny", "real", "random")),
        ]
    every.append(Plan("serialization", "codec.sift", ("tiny", "real"), quick=(), full=(hundred,)))
    return tuple(every)


PLANS = _plans()
