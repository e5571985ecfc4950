"""The wrapper counts what happened and changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from portask import registry
from portask.contracts import Catalog, Closeable, Deferred, Gathering, GroupState, Producers, Storage
from portask.errors import StorageFull
from portask.messages import TopicPartition
from portask.reference.storage import MemoryStorage
from portask.registry import Entry
from portask.storage import SegmentLog
from portask.storage.metered import metered
from portask_lab.conformance import NotApplicable, checks
from portask_lab.conformance.storage_support import BASE, KEY, Driver, batch_of

PROTOCOLS = (Storage, Catalog, Closeable, Deferred, Gathering, GroupState, Producers)


def metered_memory(max_bytes: int = 1 << 30) -> Any:
    return metered(MemoryStorage(max_bytes))


def metered_log(path: str, max_bytes: int = 0) -> Any:
    return metered(SegmentLog(path, max_bytes=max_bytes))


@pytest.mark.parametrize("target", ["metered_memory", "metered_log"])
@pytest.mark.parametrize("item", checks("storage"), ids=lambda item: item.name)
def test_it_conforms(target: str, item: Any) -> None:
    try:
        item.run(Entry("storage", target, f"{__name__}:{target}", "under test"))
    except NotApplicable as reason:
        pytest.skip(str(reason))


def test_it_has_the_abilities_of_what_it_wraps(tmp_path: Path) -> None:
    log = SegmentLog(tmp_path / "log")
    wrapped: Any = None
    for storage in (MemoryStorage(), log):
        wrapped = metered(storage)
        assert metered(wrapped) is wrapped
        for protocol in PROTOCOLS:
            assert isinstance(wrapped, protocol) == isinstance(storage, protocol), protocol
    assert not isinstance(metered(MemoryStorage()), Deferred)
    told: list[bool] = []
    wrapped.notify = lambda: told.append(True)
    log.notify()
    assert told
    wrapped.close()


def test_it_counts_where_the_work_ends(tmp_path: Path) -> None:
    storage: Any = metered(SegmentLog(tmp_path / "log", mode="synced", max_bytes=20_000))
    driver = Driver(storage)
    sizes = 0
    for number in range(20):
        batch = batch_of(b"a", b"b", bytes(number))
        driver.append(batch, BASE)
        sizes += len(batch.data)
    for _ in range(3):
        with pytest.raises(StorageFull):
            driver.append(batch_of(bytes(20_000)))
    driver.read(0)
    driver.lookup(BASE)
    driver.flush()
    saved: list[Any] = []
    storage.save_group("g", TopicPartition("t"), b"12345", saved.append)
    shown = storage.snapshot()
    assert shown["saves"]["waiting"] == 1
    driver._pump(lambda: bool(saved))
    shown = storage.snapshot()
    appends = shown["appends"]
    assert (appends["calls"], appends["waiting"], appends["failed"]) == (23, 0, 3)
    assert appends["bytes"] == sizes
    assert shown["records"] == 60
    assert 0 < appends["p50_ns"] <= appends["p99_ns"] <= appends["max_ns"]
    assert shown["reads"]["bytes"] >= sizes
    assert shown["saves"]["bytes"] == 5
    assert shown["saves"]["calls"] == shown["lookups"]["calls"] == shown["flushes"]["calls"] == 1
    assert shown["stored_bytes"] == {str(KEY): sizes}
    assert shown["syncs"]["calls"] >= 1
    assert shown["quarantined_ranges"] == 0
    assert shown["durability"] == "synced"
    storage.close()


def test_the_log_is_registered_as_durable() -> None:
    entry = registry.get("storage", "segment-log")
    assert entry.load() is SegmentLog
    assert "durable" in entry.capabilities
