"""Holds the log, read back without the broker, against what producers wrote down and consumers were given."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from portask import registry
from portask.messages import TopicPartition
from portask.multicore.owners import owner_of
from portask.reference.codec import Cbor2Codec
from portask.wire import batches
from portask_lab.crash import payloads
from portask_lab.crash.broker import TOPIC
from portask_lab.crash.load import UNKNOWN
from portask_lab.workloads.storage.driving import Driven

_READ_BYTES = 1 << 20
_SHOWN = 5


class Log(msgspec.Struct):
    """What is in the log.

    Attributes:
        ids: Partition → message ids by offset, -1 where there is a hole or something that nobody published.
        altered: Records that nobody published.
        missing: Offsets that cannot be read.
    """

    ids: dict[int, array[int]]
    altered: int = 0
    missing: int = 0


class Verdict(msgspec.Struct):
    """What must be 0, and what is counted; see `portask_lab.crash`.

    Attributes:
        lost: Acknowledged and not in the log.
        misplaced: Acknowledged for an offset that holds something else.
        disordered: Messages that lie before an earlier one of their producer.
        altered: Records, in the log or delivered, that nobody published just so.
        missing: Offsets of the log that cannot be read.
        duplicated: Records that are in the log once more, of producers that do not number their batches.
        duplicated_numbered: Likewise, of the others.
        taken_back: Records that a consumer was given and that are not in the log at that offset.
        undelivered: Acknowledged and never given to the subscription.
        undelivered_group: Acknowledged and never given to a member of the group.
        redelivered_group: Deliveries to the group beyond the first of each record.
        examples: The first few of what is wrong, in words.
    """

    lost: int = 0
    misplaced: int = 0
    disordered: int = 0
    altered: int = 0
    missing: int = 0
    duplicated: int = 0
    duplicated_numbered: int = 0
    taken_back: int = 0
    undelivered: int = 0
    undelivered_group: int = 0
    redelivered_group: int = 0
    examples: list[str] = []

    def example(self, text: str) -> None:
        """Keeps the first few."""
        if len(self.examples) < _SHOWN:
            self.examples.append(text)


def read(folder: Path, storage: str, mode: str, partitions: int, workers: int) -> Log:
    """The whole log of the topic, every record decoded and compared with what was published.

    Of several workers each has a part; a partition counts where its owner has it, and nowhere else.

    Raises:
        PortaskError: the storage cannot be opened or read.
    """
    log = Log({partition: array("q") for partition in range(partitions)})
    entry = registry.get("storage", storage)
    if workers == 1:
        _read(log, Driven(entry, mode, folder=folder), list(log.ids))
        return log

    def owner(key: TopicPartition) -> int:
        return owner_of(key.topic, key.partition, workers)

    parts = entry.load().divide(str(folder / "log"), workers, owner)
    try:
        for place, path in enumerate(parts.paths):
            own = [number for number in log.ids if owner(TopicPartition(TOPIC, number)) == place]
            _read(log, Driven(entry, mode, folder=folder, path=path), own)
    finally:
        parts.close()
    return log


def _read(log: Log, driven: Driven, partitions: list[int]) -> None:
    codec = Cbor2Codec()
    try:
        there = set(driven.storage.partitions())
        for partition in partitions:
            ids = log.ids[partition]
            key = TopicPartition(TOPIC, partition)
            end = driven.lookup(key) if key in there else 0
            while len(ids) < end:
                for data in driven.read(key, len(ids), _READ_BYTES):
                    batch = batches.parse(data)
                    log.missing += max(batch.base_offset - len(ids), 0)
                    ids.extend([-1] * (batch.base_offset - len(ids)))
                    messages = codec.decode(batch.body, batch.count, batch.base_timestamp)
                    for message in messages[len(ids) - batch.base_offset :]:
                        found = payloads.identity(message.payload, partition)
                        log.altered += found is None
                        ids.append(-1 if found is None else found)
    finally:
        driven.close()


def judge(
    log: Log,
    acked: Path,
    numbered: set[int],
    seen: Mapping[int, array[int]],
    deliveries: Mapping[int, bytearray],
) -> Verdict:
    """Everything that `portask_lab.crash` promises.

    Args:
        log: As read back.
        acked: File of acknowledged ids, ``writer,number,partition,offset`` a line.
        numbered: Writers that number their batches.
        seen: Partition → message ids by offset, as the subscription got them; -1 for none.
        deliveries: Partition → how often the group got each offset.
    """
    verdict = Verdict(altered=log.altered, missing=log.missing)
    places: dict[int, list[tuple[int, int]]] = {}
    for partition, ids in log.ids.items():
        _order(verdict, partition, ids, numbered, places)
    for line in acked.read_text().splitlines():
        writer, number, partition, offset = map(int, line.split(","))
        _acknowledged(verdict, payloads.ident(writer, number), (partition, offset), places, seen, deliveries)
    for partition, ids in seen.items():
        stored = log.ids[partition]
        for offset, identity in enumerate(ids):
            if identity >= 0 and (offset >= len(stored) or stored[offset] != identity):
                verdict.taken_back += 1
                verdict.example(f"offset {offset} of partition {partition} was delivered and is another now")
    for partition, counts in deliveries.items():
        stored_end = len(log.ids[partition])
        verdict.taken_back += sum(map(bool, counts[stored_end:]))
        verdict.redelivered_group += sum(count - 1 for count in counts if count)
    return verdict


def _order(
    verdict: Verdict,
    partition: int,
    ids: Iterable[int],
    numbered: set[int],
    places: dict[int, list[tuple[int, int]]],
) -> None:
    """Order and duplicates within one partition; fills in where each id lies."""
    newest: dict[int, int] = {}
    for offset, identity in enumerate(ids):
        if identity < 0:
            continue
        writer = payloads.writer_of(identity)
        known = places.get(identity)
        if known is not None:
            known.append((partition, offset))
            if writer in numbered:
                verdict.duplicated_numbered += 1
                verdict.example(f"{_name(identity)} is at offset {offset} of partition {partition} again")
            else:
                verdict.duplicated += 1
            continue
        places[identity] = [(partition, offset)]
        if identity < newest.get(writer, -1):
            verdict.disordered += 1
            verdict.example(f"{_name(identity)} lies behind {_name(newest[writer])} in partition {partition}")
        newest[writer] = max(identity, newest.get(writer, -1))


def _acknowledged(  # noqa: PLR0917 - each is needed
    verdict: Verdict,
    identity: int,
    where: tuple[int, int],
    places: Mapping[int, list[tuple[int, int]]],
    seen: Mapping[int, array[int]],
    deliveries: Mapping[int, bytearray],
) -> None:
    """What must hold for one message that was acknowledged."""
    found = places.get(identity)
    if found is None:
        verdict.lost += 1
        verdict.example(
            f"{_name(identity)} was acknowledged at offset {where[1]} of partition {where[0]} and is gone"
        )
        return
    if where[1] != UNKNOWN and where not in found:
        verdict.misplaced += 1
        verdict.example(f"{_name(identity)} was acknowledged at {where}, and lies at {found}")
    if not any(
        offset < len(seen.get(partition, ())) and seen[partition][offset] == identity
        for partition, offset in found
    ):
        verdict.undelivered += 1
        verdict.example(f"{_name(identity)} was acknowledged and never delivered")
    if not any(
        offset < len(counts := deliveries.get(partition, b"")) and counts[offset]
        for partition, offset in found
    ):
        verdict.undelivered_group += 1
        verdict.example(f"{_name(identity)} was acknowledged and never delivered to the group")


def _name(identity: int) -> str:
    writer = payloads.writer_of(identity)
    return f"message {identity - payloads.ident(writer, 0):,} of producer {writer}"
