"""Whatever happened to the files: what is recovered is what was there, less what is reported as lost."""

from __future__ import annotations

import shutil
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from crc32c import crc32c
from hypothesis import example, given, settings
from hypothesis import strategies as st

from portask.errors import StorageError
from portask.messages import TopicPartition
from portask.storage import SegmentLog, groups, recovery
from portask.storage.files import Files
from portask.storage.segments import FORMAT_VERSION, HEADER_SIZE, header
from portask.wire import batches
from portask_lab.conformance.storage_support import BASE, KEY, Driver, batch_of

from .shims import SMALL, copy_log, fill, payloads, small

APPEND_TIME = range(8, 16)


class Extent(NamedTuple):
    """Where a batch lies."""

    path: Path
    start: int
    end: int
    base: int
    records: int


def folder_of(log: Path) -> Path:
    return log / "topics" / KEY.topic / str(KEY.partition)


def extents(log: Path) -> list[Extent]:
    found = []
    for path in sorted(folder_of(log).glob("*.log")):
        data = path.read_bytes()
        at = HEADER_SIZE
        while at < len(data):
            length = int.from_bytes(data[at + 16 : at + 20], "little")
            base, _, count, _ = batches.peek(data[at : at + length])
            found.append(Extent(path, at, at + length, base, count))
            at += length
    return found


class Original(NamedTuple):
    """A log as a kill -9 leaves it, and what is in it."""

    folder: Path
    acked: dict[int, bytes]
    extents: list[Extent]

    def without(self, *lost: Extent) -> dict[int, bytes]:
        gone = {offset for each in lost for offset in range(each.base, each.base + each.records)}
        return {offset: payload for offset, payload in self.acked.items() if offset not in gone}


def original(tmp_path: Path, count: int, **options: Any) -> Original:
    storage = small(tmp_path / "live", **options)
    acked = fill(storage, range(count))
    copy_log(tmp_path / "live", tmp_path / "original", storage)
    storage.close()
    return Original(tmp_path / "original", acked, extents(tmp_path / "original"))


@pytest.fixture
def one_segment(tmp_path: Path) -> Original:
    made = original(tmp_path, 6)
    assert len({each.path for each in made.extents}) == 1
    return made


def reopened(folder: Path) -> dict[int, bytes]:
    storage = small(folder)
    found = payloads(storage) if list(storage.partitions()) else {}
    storage.close()
    return found


def test_cut_at_every_byte_a_valid_prefix_is_left(one_segment: Original, tmp_path: Path) -> None:
    (path,) = {each.path for each in one_segment.extents}
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        kept = [each for each in one_segment.extents if each.end <= size]
        expected = one_segment.without(*(each for each in one_segment.extents if each.end > size))
        assert reopened(one_segment.folder) == expected, f"cut at {size}"
        end = kept[-1].end if kept else HEADER_SIZE
        assert path.stat().st_size == end, f"cut at {size}: the torn end is still there"
        for index in folder_of(one_segment.folder).glob("*.index"):
            index.unlink()


def test_a_log_goes_on_behind_a_cut(one_segment: Original) -> None:
    (path,) = {each.path for each in one_segment.extents}
    whole = path.read_bytes()
    for torn in (one_segment.extents[-1], one_segment.extents[-3]):
        path.write_bytes(whole[: torn.start + 70])
        storage = small(one_segment.folder)
        assert Driver(storage).append(batch_of(b"new")) == torn.base
        storage.close()
        expected = {offset: payload for offset, payload in one_segment.acked.items() if offset < torn.base}
        assert reopened(one_segment.folder) == expected | {torn.base: b"new"}
        for index in folder_of(one_segment.folder).glob("*.index"):
            index.unlink()


@pytest.mark.parametrize("flip", [0xFF, 0x01])
def test_flipped_at_every_byte_only_that_batch_is_lost(one_segment: Original, flip: int) -> None:
    (path,) = {each.path for each in one_segment.extents}
    whole = path.read_bytes()
    last = one_segment.extents[-1]
    files = Files()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes((whole[at] ^ flip,)) + whole[at + 1 :])
        found = recovery.recover(files, str(folder_of(one_segment.folder)), SMALL["index_interval"])
        if at < HEADER_SIZE:
            assert [finding.kind for finding in found.findings] == ["header"], f"flipped {at}"
            assert reopened(one_segment.folder) == one_segment.acked, f"flipped {at}"
        else:
            hit = next(each for each in one_segment.extents if each.start <= at < each.end)
            expected = one_segment.acked if at - hit.start in APPEND_TIME else one_segment.without(hit)
            assert reopened(one_segment.folder) == expected, f"flipped {at}"
            if expected is not one_segment.acked:
                (finding,) = found.findings
                if hit is last:
                    assert (finding.kind, finding.start) == ("torn tail", hit.start)
                else:
                    assert finding.kind == "quarantined"
                    assert (finding.first, finding.next) == (hit.base, hit.base + hit.records)
                    assert (finding.start, finding.bytes) == (hit.start, hit.end - hit.start)
        for index in folder_of(one_segment.folder).glob("*.index"):
            index.unlink()


def test_damage_in_a_trusted_segment_is_found_by_reading(
    tmp_path: Path, logged: list[MutableMapping[str, Any]]
) -> None:
    made = original(tmp_path, 60)
    first = made.extents[0].path
    mine = [each for each in made.extents if each.path == first]
    assert len(mine) > 5
    assert first.with_suffix(".index").exists() or reopened(made.folder) == made.acked
    whole = first.read_bytes()
    for hit in (mine[0], mine[3], mine[-1]):
        for at in (hit.start + 3, hit.start + 17, hit.start + 29, hit.end - 1):
            first.write_bytes(whole[:at] + bytes((whole[at] ^ 0x11,)) + whole[at + 1 :])
            logged.clear()
            assert reopened(made.folder) == made.without(hit), f"flipped {at}"
            (said,) = [entry for entry in logged if entry["event"] == "damaged records quarantined"]
            assert (said["first"], said["next"]) == (hit.base, hit.base + hit.records)
            logged.clear()
            assert reopened(made.folder) == made.without(hit), "a known hole is read as one"
            assert not [entry for entry in logged if entry["event"] == "damaged records quarantined"]
            first.write_bytes(whole)
            first.with_suffix(".index").unlink()  # it knows the hole, which is gone now
            assert reopened(made.folder) == made.acked


def test_damage_below_a_look_up_or_a_trim_is_quarantined(tmp_path: Path) -> None:
    made = original(tmp_path, 60, index_interval=4096)
    reopened(made.folder)
    hit = made.extents[4]
    whole = hit.path.read_bytes()
    spoilt = bytearray(whole)
    spoilt[hit.start + 28] ^= 1  # the record count: the walk over headers goes wrong one batch later
    hit.path.write_bytes(spoilt)
    storage = small(made.folder, index_interval=4096)
    storage.trim(KEY, before=made.extents[7].base)
    assert Driver(storage).lookup(-2) == made.extents[7].base
    assert storage.counters["quarantined_ranges"] == 1
    assert payloads(storage) == {
        offset: payload for offset, payload in made.acked.items() if offset >= made.extents[7].base
    }
    storage.close()


def test_index_files_are_never_needed(tmp_path: Path) -> None:
    made = original(tmp_path, 80)
    reopened(made.folder)
    indexes = sorted(folder_of(made.folder).glob("*.index"))
    assert len(indexes) > 2
    for path in (indexes[0], indexes[-1]):
        whole = path.read_bytes()
        for at in range(0, len(whole), 7):
            path.write_bytes(whole[:at] + bytes((whole[at] ^ 0xFF,)) + whole[at + 1 :])
            assert reopened(made.folder) == made.acked, f"{path.name} flipped at {at}"
            path.write_bytes(whole[:at])
            assert reopened(made.folder) == made.acked, f"{path.name} cut at {at}"
    for path in indexes:
        path.unlink()
    assert reopened(made.folder) == made.acked


def test_a_missing_segment_is_a_hole(tmp_path: Path) -> None:
    made = original(tmp_path, 60)
    logs = sorted(folder_of(made.folder).glob("*.log"))
    lost = [each for each in made.extents if each.path == logs[1]]
    logs[1].unlink()
    assert reopened(made.folder) == made.without(*lost)


def test_offsets_of_a_lost_end_are_not_given_out_again(tmp_path: Path) -> None:
    made = original(tmp_path, 9)
    reopened(made.folder)  # leaves an index file that vouches for everything
    last = made.extents[-1]
    last.path.write_bytes(last.path.read_bytes()[: last.start])
    assert reopened(made.folder) == made.without(last)  # and nothing appended meanwhile
    storage = small(made.folder)
    assert Driver(storage).append(batch_of(b"new")) == last.base + last.records
    copy_log(made.folder, tmp_path / "again", storage)
    storage.close()
    expected = made.without(last) | {last.base + last.records: b"new"}
    assert reopened(made.folder) == expected
    assert reopened(tmp_path / "again") == expected


def test_a_batch_within_a_payload_is_not_taken_for_one(tmp_path: Path) -> None:
    inner = [
        batches.build(b"\x84\x00\xf6\xf6\x41" + letter, 1, codec=1, base_timestamp=BASE, base_offset=offset)
        for letter, offset in ((b"a", 0), (b"b", 1), (b"c", 7))
    ]
    storage = small(tmp_path / "live")
    driver = Driver(storage)
    for payload in (b"first", b"".join(inner), b"last"):
        driver.append(batch_of(payload, b"more"))
    copy_log(tmp_path / "live", tmp_path / "copy", storage)
    storage.close()
    _, hit, _ = extents(tmp_path / "copy")
    whole = hit.path.read_bytes()
    for at in range(hit.start, hit.start + 64):
        if at - hit.start in APPEND_TIME:
            continue
        hit.path.write_bytes(whole[:at] + bytes((whole[at] ^ 0x80,)) + whole[at + 1 :])
        found = reopened(tmp_path / "copy")
        assert {offset: found.get(offset) for offset in (0, 1)} == {0: b"first", 1: b"more"}
        assert set(found.values()) <= {b"first", b"more", b"last"}, f"flipped {at}: {found}"
        for index in folder_of(tmp_path / "copy").glob("*.index"):
            index.unlink()


def test_a_torn_batch_with_batches_within_its_payload_is_cut(tmp_path: Path) -> None:
    inner = b"".join(
        batches.build(b"\x84\x00\xf6\xf6\x41a", 1, codec=1, base_timestamp=BASE, base_offset=offset)
        for offset in range(5, 9)
    )
    storage = small(tmp_path / "live")
    Driver(storage).append(batch_of(b"first"))
    Driver(storage).append(batch_of(inner, b"more"))
    copy_log(tmp_path / "live", tmp_path / "copy", storage)
    storage.close()
    _, hit = extents(tmp_path / "copy")
    whole = hit.path.read_bytes()
    ends = {hit.end - whole[::-1].index(inner[::-1]) - len(inner) + 70 * count for count in range(1, 5)}
    for size in range(hit.start, hit.end):
        if size in ends:
            continue  # cut exactly between two of them, they cannot be told from a log's own
        hit.path.write_bytes(whole[:size])
        assert reopened(tmp_path / "copy") == {0: b"first"}, f"cut at {size}"
        for index in folder_of(tmp_path / "copy").glob("*.index"):
            index.unlink()


def test_a_newer_format_is_refused(one_segment: Original) -> None:
    path = one_segment.extents[0].path
    whole = path.read_bytes()
    newer = bytearray(header(0, 0))
    newer[8] = FORMAT_VERSION + 1
    newer[60:64] = crc32c(bytes(newer[:60])).to_bytes(4, "little")
    path.write_bytes(bytes(newer) + whole[HEADER_SIZE:])
    with pytest.raises(StorageError, match=r"format version 2.*use a newer portask"):
        small(one_segment.folder)
    assert path.read_bytes() == bytes(newer) + whole[HEADER_SIZE:]
    path.write_bytes(whole)
    assert reopened(one_segment.folder) == one_segment.acked, "the refusal left the folder locked"


def test_strangers_in_the_folder_are_left_alone(one_segment: Original) -> None:
    strangers = [
        one_segment.folder / "topics" / "notes.txt",
        one_segment.folder / "topics" / "a b" / "0",
        folder_of(one_segment.folder) / "backup.log",
        folder_of(one_segment.folder) / "00000000000000000099.log.bak",
        folder_of(one_segment.folder).parent / "first",
    ]
    for path in strangers:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"mine")
    assert reopened(one_segment.folder) == one_segment.acked
    assert all(path.read_bytes() == b"mine" for path in strangers)


DAMAGE = st.lists(
    st.tuples(st.sampled_from(("flip", "zero", "noise")), st.floats(0, 1), st.integers(1, 400)),
    min_size=1,
    max_size=4,
)


@pytest.fixture(scope="module")
def many_segments(new_folder: Callable[[], Path]) -> Original:
    return original(new_folder(), 50)


# a length that goes beyond the end, and a last batch that is damaged as well: no torn tail, for more segments follow
@example(damage=[("flip", 0.4375, 1), ("flip", 0.16, 1)], indexed=False)
@given(damage=DAMAGE, indexed=st.booleans())
@settings(max_examples=40, deadline=None)
def test_any_damage(
    many_segments: Original,
    new_folder: Callable[[], Path],
    damage: list[tuple[str, float, int]],
    indexed: bool,
) -> None:
    """Nothing is invented, and every batch that no damage touched is there."""
    folder = new_folder() / "log"
    copy_log(many_segments.folder, folder)
    if indexed:
        reopened(folder)
    sizes = [(path, path.stat().st_size) for path in sorted(folder_of(folder).glob("*.log"))]
    total = sum(size for _, size in sizes)
    touched: set[tuple[str, int]] = set()
    for kind, where, length in damage:
        at = int(where * (total - 1))
        number = 0
        while at >= sizes[number][1]:
            at -= sizes[number][1]
            number += 1
        path, size = sizes[number]
        data = bytearray(path.read_bytes())
        end = min(size, at + (1 if kind == "flip" else length))
        for place in range(at, end):
            new = {"flip": data[place] ^ 0x5A, "zero": 0, "noise": place * 7 & 0xFF}[kind]
            if new != data[place]:
                touched.add((path.name, place))
            data[place] = new
        path.write_bytes(data)
    hit = [
        each
        for each in many_segments.extents
        if any(name == each.path.name and each.start <= place < each.end for name, place in touched)
    ]
    found = reopened(folder)
    for offset, payload in found.items():
        assert many_segments.acked[offset] == payload
    assert set(many_segments.without(*hit)) <= set(found)
    assert reopened(folder) == found, "a second start finds something else"
    shutil.rmtree(folder)


def test_group_state_cut_and_flipped_at_every_byte(tmp_path: Path) -> None:
    storage = small(tmp_path / "log")
    saved = []
    for number in range(6):
        key = TopicPartition("t", number % 2)
        storage.save_group(f"g{number % 3}", key, b"state %d" % number, lambda error: None)
        storage.commit()
        saved.append((f"g{number % 3}", key, b"state %d" % number))
    storage.drop_group("g1")
    storage.close()
    path = tmp_path / "log" / groups.NAME
    whole = path.read_bytes()
    ends = []
    at = 16
    while at < len(whole):
        at += 12 + int.from_bytes(whole[at + 4 : at + 8], "little")
        ends.append(at)
    for cut in range(16, len(whole)):
        path.write_bytes(whole[:cut])
        states = groups.load(Files(), str(tmp_path / "log")).states
        expected = {
            (group, key): state for (group, key, state), end in zip(saved, ends, strict=False) if end <= cut
        }
        assert states == expected, f"cut at {cut}"
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes((whole[at] ^ 0xFF,)) + whole[at + 1 :])
        found = groups.load(Files(), str(tmp_path / "log"))
        hit = next((number for number, end in enumerate(ends) if at < end), 0) if at >= 16 else -1
        expected = {}
        for number, (group, key, state) in enumerate(saved):
            if number != hit:
                expected[group, key] = state
        if hit != len(saved):
            expected = {key: state for key, state in expected.items() if key[0] != "g1"}
            assert found.damaged
        assert found.states == expected, f"flipped at {at}"


def test_two_brokers_do_not_share_a_folder(tmp_path: Path) -> None:
    import os

    storage = small(tmp_path / "log")
    with pytest.raises(StorageError, match=rf"in use by the process {os.getpid()}: stop it"):
        SegmentLog(tmp_path / "log")
    storage.close()
    SegmentLog(tmp_path / "log").close()
