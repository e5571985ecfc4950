"""A storage over any database with transactions: what it has in common, whichever database it is.

The database keeps batches by partition number and base offset, and a few small tables beside them (`Database`
says which). `TransactionalStorage` is the rest of a storage: it gathers the appends of a turn, assigns
offsets, calls back, answers readers, and keeps the folder to itself. **One transaction a turn**: everything
that a turn appended and saved is stored whole or refused whole.

Mode ``os``: the transaction runs on the caller's thread, inside `commit`. Mode ``synced``: a commit waits for
the device, so it runs on a thread of its own (`portask_variants.storage.writing`), and turns that come
meanwhile share the next one. Readers see a record once its turn is as durable as the mode declares, in
either.

Checksums are verified on the way out: what the database gives back damaged is left out and reported, as a gap
in the offsets.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from struct import Struct
from struct import error as StructError  # noqa: N812 - a class

import structlog
from crc32c import crc32c

from portask.contracts import EARLIEST, LATEST, Compression, Durability, Found, Read
from portask.errors import OffsetOutOfRange, StorageError
from portask.measuring.histogram import Histogram
from portask.messages import Buffer, TopicPartition
from portask.storage.files import Files
from portask.storage.gathering import gather
from portask.storage.lock import FolderLock, claim
from portask.storage.turns import NO_LIMIT, Gathered, Saved, Turns
from portask.wire import batches
from portask_variants.storage.database import Cut, Database, Part, State, Work
from portask_variants.storage.writing import Writer

log = structlog.get_logger("portask.storage")

MODES = ("os", "synced")
_LONGEST_GROUP = 400
"""Bytes of a group's name: it is part of a key."""
_WALK = 1000
_CUT = 4 << 20
"""Batches, and their bytes, that one transaction of a trim forgets, about."""
_HEAD = Struct("<Q8xII")  # base offset, length, checksum
_GroupKey = tuple[str, TopicPartition]


class Partition(Gathered):
    """One partition.

    Attributes:
        number: The database's for it.
        newest: Base offset of the newest batch that readers see.
    """

    def __init__(self, key: TopicPartition, number: int) -> None:
        super().__init__(key)
        self.number = number
        self.newest = 0


class TransactionalStorage(Turns[Partition]):
    """`Storage`, `Catalog`, `Gathering`, `Deferred`, `Producers`, `GroupState` and `Closeable` over a `Database`.

    Args:
        name: Of the variant.
        path: The folder; made if it is not there.
        open_database: Opens the database in the folder, which is locked by then.
        mode: ``os`` or ``synced``.
        coalesce_bytes: Target size of batches that are joined from small ones.
        compression: Packs joined batches; ``None`` leaves them.

    Raises:
        StorageError: another process or another storage has the folder, or what is there is no database of ours.
        OSError: the folder cannot be read or written.
    """

    def __init__(
        self,
        name: str,
        path: str | Path,
        open_database: Callable[[str], Database],
        *,
        mode: str,
        coalesce_bytes: int,
        compression: Compression | None,
    ) -> None:
        super().__init__(coalesce_bytes, compression)
        self.durability = Durability(mode)
        self._states: dict[_GroupKey, bytes] = {}
        self._saves: dict[_GroupKey, tuple[bytes, list[Saved]]] = {}
        self._drops: list[str] = []
        self._cuts: dict[int, Cut] = {}
        self._numbers: dict[int, TopicPartition] = {}
        self._unused = 0  # the lowest number that no partition has or had
        self._generation = 1
        self._damaged = 0
        synced = mode == "synced"
        folder = os.fspath(path)
        new = not Path(path).exists()
        Path(path).mkdir(parents=True, exist_ok=True)
        self._lock = FolderLock(folder)
        try:
            files = Files()
            claim(files, folder, name)
            self._database = open_database(folder)
        except BaseException:
            self._lock.release()
            raise
        self._writer = Writer(self._database.write, self._notified, synced=synced)
        try:
            if synced:
                # what a killed process wrote may be in the kernel only; nobody shall see it before the device has it
                self._database.sync()
                for each in (folder, os.fspath(Path(path).absolute().parent)) if new else (folder,):
                    files.sync_folder(each)
            self._restore(folder)
        except BaseException:
            self._release()
            raise
        log.info("log opened", folder=folder, partitions=len(self._logs))

    def _restore(self, folder: str) -> None:
        try:
            self._load()
        except (StructError, ValueError, LookupError) as error:
            what = f"{type(error).__name__}: {error}"
            raise StorageError(
                f"the database in {folder} is damaged ({what}): put a backup in its place"
            ) from error

    def _load(self) -> None:
        for number, key, first, end, newest, size, producers in self._database.partitions():
            held = self._logs[key] = Partition(key, number)
            held.first, held.next, held.assigned = first, end, end
            held.newest, held.bytes, held.producers = newest, size, producers
            self._numbers[number] = key
            self._unused = max(self._unused, number + 1)
        self._states = self._saved_states()

    def _saved_states(self) -> dict[_GroupKey, bytes]:
        return {(group, self._numbers[number]): state for group, number, state in self._database.groups()}

    # ── a turn ────────────────────────────────────────────────────────────────────────────────────────────

    def _new(self, partition: TopicPartition) -> Partition:
        number = self._unused
        self._unused += 1
        self._numbers[number] = partition
        return Partition(partition, number)

    def _partition(self, key: TopicPartition) -> Partition:
        held = self._logs.get(key)
        if held is None:
            held = self._logs[key] = self._new(key)
        return held

    def _refusal(self, size: int) -> StorageError:
        return self._writer.failure or StorageError("the log is closed")

    def _waiting(self) -> bool:
        return bool(self._saves) or bool(self._drops)

    def _store_all(self) -> None:
        self._dispatch()
        self._take_done()

    def _dispatch(self) -> None:
        """Hands everything that waits to the writer."""
        work = Work(self._generation)
        for held in self._take_dirty():
            pending, turn = self._take(held)
            work.parts.append(Part(held.number, held.key, turn))
            work.pending.append(pending)
        work.drops, self._drops = self._drops, []
        saves, self._saves = self._saves, {}
        for (group, key), (state, callbacks) in saves.items():
            work.states.append(State(group, self._partition(key).number, key, state))
            work.callbacks += callbacks
            self._states[group, key] = state
        self._writer.put(work)

    def _take_done(self) -> None:
        done = self._writer.done
        while done:
            work, error = done.popleft()
            self._completed += [(iter(pending), error) for pending in work.pending]
            self._answer(work.callbacks, error)
            if error is None:
                self._reveal(work)
            else:
                self._undo(work, error)

    def _reveal(self, work: Work) -> None:
        """Lets readers see what a transaction stored."""
        for _, key, turn in work.parts:
            held = self._logs[key]
            held.next = turn.end
            held.bytes += turn.size
            held.newest = batches.peek(turn.parts[-1])[0]
            if turn.standings:
                held.producers.update(turn.standings)

    def _undo(self, work: Work, error: StorageError) -> None:
        """A transaction came to nothing."""
        if self._writer.failure is not None:
            self._room = -NO_LIMIT  # nothing is taken any more
        for cut in work.cuts:
            log.warning("trimmed records stay in the database", reason=str(error))
            later = self._cuts.get(cut.number)
            self._cuts[cut.number] = cut if later is None else later.behind(cut)
        if work.drops or work.states:
            self._drops = work.drops + self._drops
            self._states = self._saved_states()
            for group in self._drops:
                self._forget_states(group)
        if work.generation == self._generation and not work.cuts:
            # offsets that were given out since follow those that are refused now, and cannot stand
            if self._dirty:
                self._dispatch()
            self._generation += 1
            for held in self._logs.values():
                held.assigned = held.next

    def poll(self) -> int:
        """See `portask.contracts.Deferred.poll`. Commits, too."""
        if self._dirty or self._waiting():
            self._store_all()
        self._take_done()
        return self._complete()

    def flush(self, done: Saved) -> None:
        """See `portask.contracts.Storage.flush`. In mode ``synced`` a later `poll` calls ``done``."""
        self.commit()
        if self._closed or self._writer.failure is not None:
            done(self._writer.failure)
            return
        work = Work(self._generation)
        work.callbacks.append(done)
        self._writer.put(work)
        self.poll()

    # ── reading ───────────────────────────────────────────────────────────────────────────────────────────

    def read(self, partition: TopicPartition, offset: int, limit: int, done: Read) -> None:
        """See `portask.contracts.Storage.read`. Completes at once; records that were damaged are skipped.

        Errors: besides those of the contract, `StorageError` when the database cannot be read. When all up to the end
        is damaged, `OffsetOutOfRange` with the end as ``first``.
        """
        try:
            held = self._readable(partition, offset)
            found = (
                gather(self._intact(held, offset, limit), self._coalesce_bytes) if offset < held.next else ()
            )
        except StorageError as error:
            done((), error)
        else:
            done(found, None)

    def _intact(self, held: Partition, offset: int, limit: int) -> list[Buffer]:
        at = offset
        while at < held.next:
            found = self._database.read(held.number, at, limit, held.next)
            intact: list[Buffer] = [batch for base, batch in found if self._whole(held, base, batch)]
            if intact:
                return intact
            behind = self._database.sizes(held.number, found[-1][0] + 1, 1) if found else ()
            at = behind[0][0] if behind else held.next
        text = f"offsets {offset} to {held.next - 1} of {held.key} are damaged: go on at {held.next}"
        raise OffsetOutOfRange(text, held.next, held.next)

    def _whole(self, held: Partition, base: int, batch: bytes) -> bool:
        if len(batch) > batches.BATCH_HEADER_SIZE:
            own, length, check = _HEAD.unpack_from(batch)
            if own == base and length == len(batch) and check == crc32c(memoryview(batch)[24:]):
                return True
        self._damaged += 1
        log.error("damaged records left out", partition=str(held.key), first=base, bytes=len(batch))
        return False

    def lookup(self, partition: TopicPartition, when: int, done: Found) -> None:
        """See `portask.contracts.Storage.lookup`. Completes at once; a time takes about 2 µs a doubling of the log."""
        try:
            held = self._asked(partition)
            offset = self._found(held, when)
        except StorageError as error:
            done(-1, error)
        else:
            done(offset, None)

    def _found(self, held: Partition, when: int) -> int:
        low, high = held.first, held.next
        if when in {EARLIEST, LATEST}:
            return low if when == EARLIEST else high
        while low < high:  # append times never fall
            middle = (low + high) // 2
            found = self._database.read(held.number, middle, 1, held.next)
            if not found or found[0][0] >= high:
                high = middle
                continue
            base, time, count, _ = batches.peek(found[0][1])
            if time < when:
                low = base + count
            else:
                high = min(base, middle)
        return max(low, held.first)

    # ── retention ─────────────────────────────────────────────────────────────────────────────────────────

    def trim(self, partition: TopicPartition, before: int = 0, max_bytes: int | None = None) -> None:
        """See `portask.contracts.Storage.trim`. Costs about 2 µs a batch; what the database frees it uses again.

        A trim that cannot be stored is tried again by the next one; until then a restart brings the records back.
        """
        held = self._logs.get(partition)
        if held is None or not held.next or self._closed:
            return
        failed, self._cuts = self._cuts, {}
        for earlier in failed.values():
            self._put_cut(earlier)
        try:
            while (cut := self._cut(held, before, max_bytes)) is not None:
                held.first = cut.before
                held.bytes -= cut.size
                self._put_cut(cut._replace(producers=held.forget_producers()))
        except StorageError as error:
            log.warning("not trimmed", partition=str(partition), reason=str(error))

    def _cut(self, held: Partition, before: int, max_bytes: int | None) -> Cut | None:
        """The oldest of what is to be forgotten, as much as one transaction should; the newest batch is not."""
        over = 0 if max_bytes is None else held.bytes - max_bytes
        if held.first >= min(before, held.newest) and over <= 0:
            return None
        first, freed = held.first, 0
        for (base, size), (end, _) in pairwise(self._database.sizes(held.number, first, _WALK)):
            if base >= held.newest or not (end <= before or freed < over) or freed > _CUT:
                break
            first = end
            freed += size
        return Cut(held.number, first, freed, ()) if first > held.first else None

    def _put_cut(self, cut: Cut) -> None:
        self._writer.put(Work(self._generation, [cut]))
        self._take_done()

    # ── group state ───────────────────────────────────────────────────────────────────────────────────────

    def save_group(self, group: str, partition: TopicPartition, state: bytes, done: Saved) -> None:
        """See `portask.contracts.GroupState`. ``done`` is called by `commit`, in mode ``synced`` by a later `poll`."""
        if self._closed or self._writer.failure is not None:
            done(self._refusal(0))
            return
        if len(group.encode()) > _LONGEST_GROUP:
            done(
                StorageError(
                    f"the group name {group[:40]!r}… is too long: {_LONGEST_GROUP} bytes are the most"
                )
            )
            return
        waiting = self._saves.get((group, partition))
        self._saves[group, partition] = (state, [done] if waiting is None else [*waiting[1], done])

    def load_groups(self) -> Iterable[tuple[str, TopicPartition, bytes]]:
        """See `portask.contracts.GroupState`."""
        self.commit()
        return [(group, partition, state) for (group, partition), state in self._states.items()]

    def drop_group(self, group: str) -> None:
        """See `portask.contracts.GroupState`."""
        self._forget_states(group)
        for key in [key for key in self._saves if key[0] == group]:
            self._answer(self._saves.pop(key)[1], None)
        self._drops.append(group)

    def _forget_states(self, group: str) -> None:
        for key in [key for key in self._states if key[0] == group]:
            del self._states[key]

    # ── what a metric wants to know ───────────────────────────────────────────────────────────────────────

    @property
    def sync_times(self) -> Histogram:
        """How long transactions took that were synced, ns."""
        return self._writer.times

    @property
    def counters(self) -> dict[str, int]:
        """Batches that were found damaged since the start; one that is read twice counts twice."""
        return {"damaged_batches": self._damaged}

    # ── the end ───────────────────────────────────────────────────────────────────────────────────────────

    def close(self) -> None:
        """Stores and syncs what is left, calls back, and lets others in. Idempotent."""
        if self._closed:
            return
        self.commit()
        self._writer.close()
        self.poll()
        try:
            self._database.sync()
        except StorageError as error:
            log.warning("not synced", reason=str(error))
        finally:
            self._release()

    def _release(self) -> None:
        self._closed = True
        self._room = -NO_LIMIT
        self._writer.close()
        self._database.close()
        self._lock.release()
