"""Storage workloads: driven as a broker does, and a storage that cheats gets no figure."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytest

from portask import registry
from portask.contracts import Appended, Durability, Read
from portask.errors import PortaskError
from portask.messages import Buffer, RecordBatch, TopicPartition
from portask.reference.storage import MemoryStorage
from portask.registry import Entry
from portask.storage.files import Files
from portask_lab import blocks, sandboxes, suites, summaries, workloads
from portask_lab.corpora import EMPTY
from portask_lab.corpora.load import load
from portask_lab.suites import QUICK
from portask_lab.workloads import Measurement, NotForThis, Params, WrongResult, storage
from portask_lab.workloads.storage import driving, recovery
from portask_lab.workloads.storage.driving import Driven, file_system
from tests.lab.made import empty_run

KEY = TopicPartition("t", 0)
LOG = registry.get("storage", "segment-log")


def odd(name: str) -> Entry:
    return Entry("storage", name, f"{__name__}:{name}", "breaks its promise")


class Silent(MemoryStorage):
    """Never calls back, and does not say that it will."""

    def append(self, partition: TopicPartition, batch: RecordBatch, now: int, done: Appended) -> None:
        super().append(partition, batch, now, lambda _offset, _error: None)


class Forgetful(MemoryStorage):
    """Acknowledges everything, keeps all but every seventh batch."""

    count = 0

    def append(self, partition: TopicPartition, batch: RecordBatch, now: int, done: Appended) -> None:
        self.count += 1
        if self.count % 7:
            super().append(partition, batch, now, done)
        else:
            done(0, None)


class Slow(MemoryStorage):
    """Takes longer for an append than a short run lasts."""

    def append(self, partition: TopicPartition, batch: RecordBatch, now: int, done: Appended) -> None:
        time.sleep(0.02)
        super().append(partition, batch, now, done)


class Swapping(MemoryStorage):
    """Keeps the newest batch back, so that two change places."""

    held: tuple[Any, ...] | None = None

    def append(self, partition: TopicPartition, batch: RecordBatch, now: int, done: Appended) -> None:
        if self.held is None:
            self.held = (partition, batch, now, done)
            return
        super().append(partition, batch, now, done)
        held, self.held = self.held, None
        super().append(*held)


class Unreadable(MemoryStorage):
    """Gives nothing back."""

    def read(self, partition: TopicPartition, offset: int, limit: int, done: Read) -> None:
        nothing: Sequence[Buffer] = ()
        done(nothing, None)


class TwoModes(MemoryStorage):
    """Has modes, and not all of them."""

    def __init__(self, mode: Literal["os", "synced"] = "os") -> None:
        super().__init__()


class Optimist(MemoryStorage):
    """Says that it syncs."""

    durability = Durability.SYNCED

    def flush(self, done: Any) -> None:
        done(PortaskError("the device is gone"))


def prepared(workload: str, entry: Entry, **params: Any) -> Any:
    return workloads.get(workload).prepare(entry, load("tiny", 200), {"durability": "memory", **params}, 1)


def test_a_storage_that_never_calls_back_is_caught() -> None:
    with pytest.raises(WrongResult, match="did not complete"):
        prepared("storage.append", odd("Silent"), batch=1, turn=1).run(3)
    with pytest.raises(WrongResult, match="did not complete"):
        prepared("storage.acks", odd("Silent"), batch=1, producers=2).measure(0.05)


def test_a_storage_that_loses_or_reorders_is_caught() -> None:
    with pytest.raises(WrongResult):
        prepared("storage.append", odd("Forgetful"), batch=10, turn=1).verify()
    with pytest.raises(WrongResult):
        prepared("storage.append", odd("Unreadable"), batch=10, turn=1).verify()
    acks = prepared("storage.acks", odd("Forgetful"), batch=10, producers=3)
    acks.measure(0.02)
    with pytest.raises(WrongResult):
        acks.verify()
    with pytest.raises(WrongResult, match="not what was appended"):
        prepared("storage.append", odd("Swapping"), batch=10, turn=4).verify()


def test_figures_are_of_the_durability_that_the_case_names(tmp_path: Path) -> None:
    for mode in ("memory", "os", "synced"):
        driven = Driven(LOG, mode, folder=tmp_path / mode)
        assert driven.storage.durability.value == mode
        driven.close()
    with pytest.raises(NotForThis, match="promises memory"):
        Driven(registry.get("storage", "memory"), "os")
    with pytest.raises(NotForThis, match="has the modes os, synced, this case is about memory"):
        Driven(odd("TwoModes"), "memory")


def test_a_failed_flush_and_a_failed_read_are_raised() -> None:
    driven = Driven(odd("Optimist"), "synced")
    with pytest.raises(PortaskError, match="the device is gone"):
        driven.flush()
    with pytest.raises(PortaskError, match="nothing was ever published"):
        driven.read(KEY, 0, 100)
    with pytest.raises(PortaskError, match="nothing was ever published"):
        driven.lookup(KEY)


def test_files_in_ram_are_never_called_synced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driving, "file_system", lambda folder: "tmpfs")
    with pytest.raises(PortaskError, match="set TMPDIR"):
        Driven(LOG, "synced")
    Driven(LOG, "os").close()


def test_the_file_system_is_the_one_that_the_kernel_names() -> None:
    assert file_system(Path("/proc/self")) == "proc"
    assert file_system(Path("/")) not in {"", "proc"}


def test_temporary_folders_go_with_their_storage() -> None:
    driven = Driven(LOG, "os")
    folder = driven._own
    assert folder is not None
    assert Path(folder.name).is_dir()
    driven.close()
    driven.close()
    assert not Path(folder.name).exists()


def test_a_storage_slower_than_the_run_still_gives_a_figure() -> None:
    params: Params = {"corpus": "tiny", "producers": 1, "batch": 1, "durability": "memory"}
    work = workloads.get("storage.acks").prepare(odd("Slow"), load("tiny", 10), params, 1)
    found = work.measure(0.01)
    work.verify()
    assert 1 <= found.metrics["rate"][0] <= 50
    assert found.metrics["p50"][0] >= 20_000


def test_waiting_producers_share_syncs() -> None:
    work = prepared("storage.acks", LOG, durability="synced", producers=50, batch=1)
    found = work.measure(0.3)
    work.verify()
    work.close()
    assert found.metrics["grouped"][0] > 2
    assert found.metrics["p50"][0] <= found.metrics["p99"][0]


def test_an_ack_that_takes_longer_than_the_measurement_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Files, "sync", lambda _files, _fd: time.sleep(0.05))
    work = prepared("storage.acks", LOG, durability="synced", producers=1, batch=1)
    found = work.measure(0.01)
    work.verify()
    work.close()
    assert found.metrics["p50"][0] >= 50_000
    assert found.metrics["rate"][0] > 0


def test_a_log_that_comes_back_short_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    params = {"megabytes": 1, "batch": 4, "index": "kept", "durability": "os"}
    work = prepared("storage.recovery", LOG, **params)
    assert work.measure(0).metrics["time"][0] > 0
    work.verify()
    more = recovery.fill_and_die
    monkeypatch.setattr(recovery, "fill_and_die", lambda *given: more(*given) + 4)
    work.measure(0)
    with pytest.raises(WrongResult, match="after the crash"):
        work.verify()
    with pytest.raises(NotForThis, match="forgets everything"):
        prepared("storage.recovery", registry.get("storage", "memory"), **params)


def test_only_durable_storages_are_asked_for_durable_cases() -> None:
    jobs = suites.jobs(suites.SUITES["storage"], QUICK, ["flights"])
    arms = {arm.label: arm for arm in blocks.arms(jobs, registry.entries("storage"))}
    asked = {label: {job.params["durability"] for job in arm.jobs} for label, arm in arms.items()}
    assert asked["storage/memory"] == {"memory"}
    assert asked["storage/segment-log"] == {"memory", "os", "synced"}
    assert "peer/jetstream-file-always" in asked or not any("peer" in label for label in asked)


@pytest.mark.parametrize(("name", "mode"), [("memory", "memory"), ("segment-log", "os")])
def test_messages_pass_through_a_broker_and_a_late_consumer_gets_them_all(name: str, mode: str) -> None:
    entry = registry.get("storage", name)
    for workload, params in (
        ("storage.served", {"batch": 10, "size": 100}),
        ("storage.backlog", {"messages": 12_000, "size": 64}),
    ):
        work = prepared(workload, entry, durability=mode, **params)
        found = work.measure(0.3)
        work.verify()
        assert found.metrics["rate"][0] > 0
        assert set(found.metrics) == {metric.name for metric in workloads.get(workload).metrics}


def test_a_backlog_in_another_order_gives_no_figure() -> None:
    work = prepared("storage.backlog", registry.get("storage", "memory"), messages=10_000, size=64)
    publish = work.store.publish_many
    work.store.publish_many = lambda payloads: publish(payloads[::-1])
    with pytest.raises(WrongResult, match="other messages"):
        work.measure(0.1)


def test_a_storage_on_a_server_is_no_case_of_a_promise_of_its_own() -> None:
    """Seen before anything is started or connected to."""
    far = Entry("storage", "far", "nowhere:Storage", "on a server", sandbox="nowhere:server")
    with pytest.raises(NotForThis, match="what its server does"):
        Driven(far, "memory")


def on_a_server() -> list[Entry]:
    """The variant, and redis-py by itself; skips where there is no server to start."""
    entries = [registry.get("storage", "redis"), storage._DIRECT.entry]
    reason = next((reason for entry in entries if (reason := entry.unavailable())), None)
    if reason or sandboxes.why_not():
        pytest.skip(str(reason or sandboxes.why_not()))
    return entries


@pytest.mark.parametrize("workload", ["storage.append", "storage.read"])
def test_a_storage_on_a_server_and_the_ceiling_do_the_same_work(workload: str) -> None:
    for entry in on_a_server():
        work = prepared(workload, entry, batch=1, turn=16, durability="server-always")
        try:
            work.verify()
            before = getattr(work, "before", None)
            if before is not None:
                before(50)
            assert work.run(50) > 0
            work.verify()
        finally:
            work.close()


def test_a_server_that_keeps_less_than_the_case_says_gives_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    for entry in on_a_server():
        with pytest.raises(NotForThis, match="case is about os"):
            Driven(entry, "os")
        with monkeypatch.context() as patch:
            patch.setitem(sandboxes._SYNC, "always", sandboxes._SYNC["everysec"])
            patch.setattr(sandboxes, "_running", {})
            with pytest.raises(WrongResult, match="should say 'appendfsync always'"):
                Driven(entry, "server-always")
    with pytest.raises(NotForThis, match="something of its own"):
        Driven(LOG, "server-always")


def test_a_broker_over_a_server_acknowledges_what_it_stored() -> None:
    entry = on_a_server()[0]
    work = prepared("storage.published", entry, producers=3, at_once=2, size=50, durability="server-everysec")
    assert work.measure(0.3).metrics["rate"][0] > 0
    work.verify()


@pytest.mark.parametrize(("name", "where"), [("memory", "in RAM"), ("segment-log", "in files")])
def test_where_queued_messages_lie_is_seen_not_declared(name: str, where: str) -> None:
    plain = Entry("storage", "x", registry.get("storage", name).target, "without any capability")
    params: dict[str, Any] = {"messages": 40_000, "payload": 64, "durability": "memory"}
    work = workloads.get("storage.queued").prepare(plain, EMPTY, params, 1)
    try:
        found = work.measure(0.0)
        work.verify()
    finally:
        work.close()
    kind = file_system(Path(tempfile.gettempdir()))
    wanted = f"{where} on {kind}, which is RAM" if where == "in files" and kind == "tmpfs" else where
    assert found.labels == {"held": wanted}


def test_labels_stand_beside_every_figure_that_comes_of_a_measurement() -> None:
    suite = suites.SUITES["memory"]
    entry = registry.get("storage", "memory")
    data = blocks.SuiteData(suite, blocks=empty_run(["memory"]).blocks[:1])
    for count in (1_000, 2_000):
        params: dict[str, Any] = {"messages": count, "payload": 64, "durability": "memory"}
        job = suites.Job("storage.queued", params, 0.0, 1, str(count), False)
        figures = {name: [float(count)] for name in ("growth", "private", "peak")}
        measurement = Measurement(figures, labels={"held": "in RAM"})
        arm = blocks.Arm(entry.label, "reference", entry, (job,), job.group)
        data.taken.append(blocks.Taken(arm, job, 0, count, measurement))
    run = empty_run(["memory"])
    summaries.fill(run, [], [summaries.part(data, 1)])
    assert {case.metric for case in run.cases} == {"growth", "private", "peak", "slope", "queue"}
    assert all(summary.labels == {"held": "in RAM"} for summary in run.summaries)
    assert [line.held for line in run.memory] == ["in RAM"]
