"""Whatever is appended, read, trimmed and reopened in whatever order: every storage says what a plain model says."""

from __future__ import annotations

import shutil
import tempfile
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from portask import registry
from portask.contracts import EARLIEST, LATEST, Closeable, GroupState, Producers
from portask.errors import OffsetOutOfRange, UnknownPartition
from portask.messages import TopicPartition
from portask.reference.storage import MemoryStorage
from portask.storage import SegmentLog
from portask_lab.conformance.storage_support import BASE, Driver, batch_of, records

from .conftest import ROOM
from .databases import DATABASES

KEYS = (TopicPartition("orders.eu", 0), TopicPartition("a b/../ü", 3))
KEY = st.sampled_from(KEYS)
BATCH = st.tuples(
    KEY,
    st.sampled_from((1, 1, 1, 2, 9)),
    st.sampled_from((0, 10, 200, 3000)),
    st.sampled_from((0, 0, 0, 50)),
    st.sampled_from((0, 0, 0, 7, 8)),
)
GROUP = st.sampled_from(("billing", "audit"))


class Machine(RuleBasedStateMachine):
    """The model: a list of payloads and times a partition, and tables of producers and groups."""

    durable: ClassVar[bool] = False

    def make(self) -> Any:
        return MemoryStorage(coalesce_bytes=2000)

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.mkdtemp(prefix="portask-model-", dir=ROOM)
        self.log: dict[TopicPartition, list[tuple[bytes, int]]] = {key: [] for key in KEYS}
        self.first = dict.fromkeys(KEYS, 0)
        self.producers: dict[TopicPartition, dict[int, tuple[int, int, int]]] = {key: {} for key in KEYS}
        self.groups: dict[tuple[str, TopicPartition], bytes] = {}
        self.now = BASE
        self.number = 0

    @initialize()
    def open(self) -> None:
        self.driver = Driver(self.make())

    @rule(given=st.lists(BATCH, min_size=1, max_size=12), step=st.sampled_from((0, 1, 300_000, 5_000_000)))
    def append(self, given: list[tuple[TopicPartition, int, int, int, int]], step: int) -> None:
        """One turn."""
        self.now += step
        outcome: list[tuple[int, Any]] = []
        expected: list[int] = []
        for key, count, size, ttl, producer in given:
            log = self.log[key]
            new = [b"%d.%d." % (self.number, index) + bytes(size) for index in range(count)]
            self.number += 1
            batch = batch_of(*new, timestamp=self.now, ttl=ttl, producer=producer, sequence=self.number)
            base = len(log)
            expected.append(base)
            self.driver.storage.append(key, batch, self.now, lambda *result: outcome.append(result))
            log += [(payload, self.now) for payload in new]
            if producer:
                self.producers[key][producer] = (0, self.number + count - 1, base + count - 1)
        self.driver._pump(lambda: len(outcome) == len(given))
        assert all(error is None for _, error in outcome)
        for key in KEYS:
            mine = [base for base, (where, *_) in zip(expected, given, strict=True) if where == key]
            assert mine == sorted(mine)
        assert sorted(base for base, _ in outcome) == sorted(expected)

    @rule(key=KEY, share=st.floats(0, 1), limit=st.sampled_from((1, 500, 5000, 1 << 20)))
    def read(self, key: TopicPartition, share: float, limit: int) -> None:
        log = self.log[key]
        if not log:
            with pytest.raises(UnknownPartition):
                self.driver.read(0, limit, key)
            return
        offset = int(share * len(log))
        if offset < self.first[key]:
            with pytest.raises(OffsetOutOfRange) as caught:
                self.driver.read(offset, limit, key)
            assert (caught.value.first, caught.value.next) == (self.first[key], len(log))
            return
        found = records(self.driver.read(offset, limit, key))
        if offset == len(log):
            assert not found
            return
        assert found[0][0] <= offset <= found[-1][0]
        start = found[0][0]
        assert [at for at, _ in found] == list(range(start, start + len(found)))
        assert [message.payload for _, message in found] == [
            payload for payload, _ in log[start : start + len(found)]
        ]

    @rule(key=KEY, when=st.integers(-1, 20), nudge=st.sampled_from((-1, 0, 1)))
    def find_time(self, key: TopicPartition, when: int, nudge: int) -> None:
        log = self.log[key]
        if not log:
            return
        moment = (log[when % len(log)][1] if when >= 0 else self.now + 10**7) + nudge
        exact = next((at for at, (_, time) in enumerate(log) if time >= moment), len(log))
        found = self.driver.lookup(moment, key)
        assert found <= max(exact, self.first[key])
        assert found >= self.first[key]
        if found < min(exact, len(log) - 1):
            assert log[min(exact, len(log) - 1)][1] - log[found][1] <= 1_000_000

    @rule(key=KEY, share=st.floats(0, 1.2))
    def trim_before(self, key: TopicPartition, share: float) -> None:
        before = int(share * len(self.log[key]))
        self.driver.storage.trim(key, before=before)
        self.trimmed(key, before)

    @rule(key=KEY, most=st.sampled_from((0, 1000, 6000, 20_000)))
    def trim_bytes(self, key: TopicPartition, most: int) -> None:
        self.driver.storage.trim(key, max_bytes=most)
        self.trimmed(key, len(self.log[key]))

    def trimmed(self, key: TopicPartition, most: int) -> None:
        if self.log[key]:
            first = self.driver.lookup(EARLIEST, key)
            assert self.first[key] <= first <= max(self.first[key], min(most, len(self.log[key]) - 1))
            self.first[key] = first
            table = self.producers[key]
            self.producers[key] = {name: state for name, state in table.items() if state[2] >= first}

    @rule(group=GROUP, key=KEY, state=st.binary(max_size=30))
    def save_group(self, group: str, key: TopicPartition, state: bytes) -> None:
        storage = self.driver.storage
        assert isinstance(storage, GroupState)
        done: list[Any] = []
        storage.save_group(group, key, b"old", done.append)
        storage.save_group(group, key, state, done.append)
        self.driver._pump(lambda: len(done) == 2)
        assert done == [None, None]
        self.groups[group, key] = state

    @rule(group=GROUP)
    def drop_group(self, group: str) -> None:
        storage = self.driver.storage
        assert isinstance(storage, GroupState)
        storage.drop_group(group)
        self.groups = {key: state for key, state in self.groups.items() if key[0] != group}

    @rule()
    def flush(self) -> None:
        self.driver.flush()

    @precondition(lambda self: self.durable)
    @rule()
    def reopen(self) -> None:
        self.driver.storage.close()  # type: ignore[attr-defined]
        self.driver = Driver(self.make())

    @invariant()
    def offsets_agree(self) -> None:
        if not hasattr(self, "driver"):
            return
        storage = self.driver.storage
        assert isinstance(storage, Producers)
        assert isinstance(storage, GroupState)
        for key in KEYS:
            if self.log[key]:
                assert self.driver.lookup(LATEST, key) == len(self.log[key])
                assert self.driver.lookup(EARLIEST, key) == self.first[key]
            known = storage.producers(key)
            assert {name: known[name] for name in self.producers[key]} == self.producers[key]
            assert all(state[2] >= self.first[key] for state in known.values())
        assert {(group, key): state for group, key, state in storage.load_groups()} == self.groups

    def teardown(self) -> None:
        if hasattr(self, "driver"):
            for key in KEYS:
                if self.log[key]:
                    found = self.driver.messages(self.first[key], key)
                    assert [at for at, _ in found] == list(range(self.first[key], len(self.log[key])))
                    kept = self.log[key][self.first[key] :]
                    assert [message.payload for _, message in found] == [payload for payload, _ in kept]
            if isinstance(self.driver.storage, Closeable):
                self.driver.storage.close()
        shutil.rmtree(self.folder)


class SegmentMachine(Machine):
    """The log in files, with segments and index intervals of a few batches."""

    durable = True
    mode: ClassVar[Any] = "os"
    cache: ClassVar[int] = 0

    def make(self) -> Any:
        return SegmentLog(
            self.folder,
            mode=self.mode,
            segment_bytes=8192,
            index_interval=512,
            coalesce_bytes=2000,
            cache_bytes=self.cache,
            open_files=2,
        )


class OsMachine(SegmentMachine):
    """As above."""


class SyncedMachine(SegmentMachine):
    """With a sync before every ack."""

    mode = "synced"
    cache = 3000


class RamMachine(SegmentMachine):
    """With acks before the write."""

    mode = "memory"


class DatabaseMachine(Machine):
    """A variant that keeps its records in a database."""

    durable = True
    variant: ClassVar[str]
    mode: ClassVar[str]

    def make(self) -> Any:
        entry = registry.get("storage", self.variant)
        return entry.make(path=self.folder, mode=self.mode, coalesce_bytes=2000)


def machines() -> dict[str, type[Machine]]:
    """Each storage in each of its modes."""
    found: dict[str, type[Machine]] = {
        "memory": Machine,
        "segment-log-os": OsMachine,
        "segment-log-synced": SyncedMachine,
        "segment-log-memory": RamMachine,
    }
    for variant in DATABASES:
        for mode in ("os", "synced"):
            name = f"{variant}-{mode}"
            found[name] = type(name, (DatabaseMachine,), {"variant": variant, "mode": mode})
    return found


MACHINES = machines()


@pytest.mark.parametrize("name", MACHINES)
def test_model(name: str) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    machine = MACHINES[name]
    if issubclass(machine, DatabaseMachine) and (
        reason := registry.get("storage", machine.variant).unavailable()
    ):
        pytest.skip(reason)
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=25,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
