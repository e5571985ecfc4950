"""What a bench reckons with: payloads that prove themselves, the account of what came, windows, spreading."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portask.cli.bench import figures
from portask.cli.bench.conductor import Outcome
from portask.cli.bench.ledger import Ledger, Seen
from portask.cli.bench.orders import (
    Load,
    ProducerReport,
    Report,
    Series,
    SubscriberReport,
    Timing,
)
from portask.cli.bench.payloads import HEAD, SMALLEST, Source, distinct, fillers, new_run
from portask.cli.bench.running import deal
from portask.client import DeliveredBatch
from portask.messages import Message

RUN = new_run(text=False)


def delivered(messages: Sequence[Message], partition: int = 0, offset: int = 0) -> DeliveredBatch:
    return DeliveredBatch("t", partition, offset, messages, 0)


def faults(ledger: Ledger) -> tuple[int, int, int, int]:
    """Messages as they must be, altered, foreign, repeated."""
    return ledger.messages, ledger.altered, ledger.foreign, ledger.repeated


# ── payloads ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("size", [SMALLEST, 128, 8 << 10, 100_000, 9_000_000])
def test_messages_have_their_size_and_are_distinct(size: int) -> None:
    made = Source(RUN, 3, size, 2).batch(1, 4)
    assert {len(message.payload) for message in made} == {size}
    assert len({message.payload for message in made}) == 4
    assert 2 <= distinct(size) <= 1024
    assert distinct(size) * size <= max(8 << 20, 2 * size)
    assert distinct(size).bit_count() == 1


def test_random_fillers_do_not_shrink_and_text_does() -> None:
    plain, text = (b"".join(fillers(new_run(text=text), 200)) for text in (False, True))
    assert len(zlib.compress(plain)) > len(plain)
    assert len(zlib.compress(text)) < 0.5 * len(text)


def test_a_message_carries_the_time_at_which_it_was_due() -> None:
    ledger = Ledger(RUN)
    source = Source(RUN, 0, 64, 1)
    times = [5, 1 << 62, 7]
    assert list(ledger.take(delivered([source.timed(0, time) for time in times]))) == times
    assert list(ledger.take(delivered(source.batch(0, 2)))) == [0, 0]


# ── the account ───────────────────────────────────────────────────────────────────────────────────────────────────────


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 6)), max_size=40))
def test_ranges_know_what_a_set_knows(taken: list[tuple[int, int]]) -> None:
    seen = Seen()
    known: Counter[int] = Counter()
    late = 0
    for start, length in taken:
        highest = max(known, default=-1)
        late += sum(number < highest and number not in known for number in range(start, start + length))
        known.update(range(start, start + length))
        seen.add(start, start + length)
    assert [
        number for pair in zip(seen.starts, seen.stops, strict=True) for number in range(*pair)
    ] == sorted(known)
    assert all(stop < start for stop, start in zip(seen.stops, seen.starts[1:], strict=False)), (
        "neighbours are one"
    )
    assert seen.count == len(known)
    assert seen.repeated == known.total() - len(known)
    assert seen.late == late


def test_producers_that_take_turns_in_a_batch_are_told_apart() -> None:
    sources = [Source(RUN, number, 64, 1) for number in range(3)]
    messages = [sources[number % 3].batch(0, 1)[0] for number in range(60)]
    ledger = Ledger(RUN)
    ledger.take(delivered(messages))
    assert faults(ledger) == (60, 0, 0, 0)
    assert [(each.producer, each.ranges) for each in ledger.streams()] == [(n, [(0, 20)]) for n in range(3)]
    ledger.take(delivered([messages[4], messages[1]]))
    assert ledger.repeated == 2


def test_partitions_have_their_own_numbers() -> None:
    source = Source(RUN, 1, 64, 2)
    ledger = Ledger(RUN)
    ledger.take(delivered(source.batch(0, 5), 0))
    ledger.take(delivered(source.batch(1, 3), 1))
    assert [(each.partition, each.producer, each.ranges) for each in ledger.streams()] == [
        (0, 1, [(0, 5)]),
        (1, 1, [(0, 3)]),
    ]


@pytest.mark.parametrize("at", [HEAD, 20, 63])
def test_one_bit_is_noticed(at: int) -> None:
    messages = Source(RUN, 0, 64, 1).batch(0, 10)
    payload = bytearray(messages[4].payload)
    payload[at] ^= 1
    messages[4] = Message(bytes(payload))
    ledger = Ledger(RUN)
    ledger.take(delivered(messages))
    assert faults(ledger) == (9, 1, 0, 0)
    assert ledger.streams()[0].ranges == [(0, 4), (5, 10)]


@pytest.mark.parametrize("cut", [SMALLEST, 40, 63])
@pytest.mark.parametrize("run", [RUN, new_run(text=True)], ids=["binary", "text"])
def test_a_message_cut_short_is_noticed(cut: int, run: int) -> None:
    messages = Source(run, 0, 64, 1).batch(0, 3)
    messages[1] = Message(messages[1].payload[:cut])
    ledger = Ledger(run, 64)
    ledger.take(delivered(messages))
    assert faults(ledger) == (2, 1, 0, 0)
    if not run & 1:
        anyone = Ledger()
        anyone.take(delivered(messages))
        assert faults(anyone) == (2, 1, 0, 0)


@given(st.binary(max_size=80))
def test_what_strangers_send_is_no_message_of_a_bench(payload: bytes) -> None:
    for ledger in (Ledger(RUN), Ledger()):
        assert not ledger.take(delivered([Message(payload)]))
        assert faults(ledger) == (0, 0, 1, 0)


def test_runs_are_told_apart() -> None:
    other = RUN ^ 2
    mixed = [*Source(RUN, 0, 64, 1).batch(0, 5), *Source(other, 0, 100, 1).batch(0, 4)]
    own, anyone = Ledger(RUN), Ledger()
    own.take(delivered(mixed))
    anyone.take(delivered(mixed))
    assert faults(own) == (5, 0, 4, 0)
    assert faults(anyone) == (9, 0, 0, 0)
    assert {(each.run, each.ranges[0]) for each in anyone.streams()} == {(RUN, (0, 5)), (other, (0, 4))}


# ── what is wrong ─────────────────────────────────────────────────────────────────────────────────────────────────────


def report(
    *ledgers: Ledger, made: Sequence[Sequence[int]] = (), acked: Sequence[Sequence[int]] = ()
) -> Report:
    none = Series([], [])
    subscribers = [
        SubscriberReport(number, each.messages, each.bytes, each.altered, each.foreign, [], each.streams(), 1)
        for number, each in enumerate(ledgers)
    ]
    producers = [ProducerReport(number, list(made[number]), list(each)) for number, each in enumerate(acked)]
    return Report(none, none, none, none, none, (0, 0, 0), producers, subscribers, Timing())


def wrong(load: Load, *reports: Report, failure: bool = False) -> list[str]:
    outcome = Outcome([], list(reports), failure=RuntimeError() if failure else None)  # type: ignore[arg-type]
    return figures.faults(load, outcome).words()


BOTH = Load(url="", kind="both", topic="t", run=RUN, producers=2, subscribers=1)


def test_faults_are_reckoned_against_what_was_acknowledged() -> None:
    ledger = Ledger(RUN)
    sources = [Source(RUN, number, 64, 2) for number in range(2)]
    ledger.take(delivered(sources[0].batch(0, 10), 0))
    ledger.take(delivered(sources[0].batch(1, 10)[3:], 1))
    made = [[10, 10], [0, 4]]
    assert wrong(BOTH, report(ledger, made=made, acked=[[10, 10], [0, 0]])) == ["3 lost"]
    assert wrong(BOTH, report(ledger, made=made, acked=[[10, 10], [0, 4]])) == ["7 lost"], (
        "a producer nobody heard of"
    )
    assert wrong(BOTH, report(ledger, made=made, acked=[[10, 2], [0, 0]])) == ["2 lost"], (
        "more than was acknowledged"
    )
    assert wrong(BOTH, report(ledger, made=[[9, 10], [0, 0]], acked=[[9, 10], [0, 0]])) == [
        "3 lost",
        "1 invented",
    ]
    assert wrong(BOTH, report(ledger, made=made, acked=[[10, 10], [0, 4]]), failure=True) == []


def test_after_a_failure_holes_still_count() -> None:
    ledger = Ledger(RUN)
    messages = Source(RUN, 0, 64, 1).batch(0, 10)
    ledger.take(delivered(messages[:4]))
    ledger.take(delivered(messages[6:]))
    assert wrong(BOTH, report(ledger, made=[[20]], acked=[[20]]), failure=True) == ["2 lost"]


def test_every_subscriber_must_have_everything_and_a_group_together() -> None:
    messages = Source(RUN, 0, 64, 1).batch(0, 10)
    parts = []
    for piece in (messages[:4], messages[4:], messages[2:5]):
        ledger = Ledger(RUN)
        ledger.take(delivered(piece))
        parts.append(ledger)
    group = Load(url="", kind="both", topic="t", run=RUN, producers=1, subscribers=2, group="g")
    halves = [report(parts[0], made=[[10]], acked=[[10]]), report(parts[1])]
    assert wrong(BOTH, *halves) == ["10 lost"]
    assert wrong(group, *halves) == []
    assert wrong(group, *halves, report(parts[2])) == ["3 repeated"]
    assert wrong(group, halves[0]) == ["6 lost"]


# ── windows and rates ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_count_between_samples_is_in_proportion() -> None:
    series = Series([0, 10, 20], [0, 100, 100])
    assert [figures.at(series, time) for time in (-5, 0, 5, 10, 15, 20, 99)] == [0, 0, 50, 100, 100, 100, 100]
    assert figures.at(Series([], []), 5) == 0


def test_the_warm_up_is_in_no_rate() -> None:
    second = 1_000_000_000
    slow_start = Series([0, 2 * second, 10 * second], [0, 10, 8010])
    found = figures.rate([slow_start, slow_start], figures.span(0, 10 * second), 100)
    assert found.messages == 16_020
    assert found.seconds == 8
    assert found.by_process == [1000, 1000]
    assert (found.messages_per_second, found.bytes_per_second) == (2000, 200_000)


def test_a_window_without_length_has_no_rate() -> None:
    assert figures.rate([Series([5], [1])], (5, 5), 1).messages_per_second == 0


# ── spreading ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(
    st.sampled_from(["pub", "sub", "both", "latency"]),
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(1, 18),
)
def test_every_client_runs_once_and_no_process_idles(
    kind: str, producers: int, subscribers: int, processes: int
) -> None:
    counts = {"producers": producers * (kind != "sub"), "subscribers": subscribers * (kind != "pub")}
    load = Load(url="", kind=kind, topic="t", **counts)  # type: ignore[arg-type]
    tasks = deal(load, min(processes, sum(counts.values())))
    assert len(tasks) == min(processes, sum(counts.values()))
    assert all(task.producers or task.subscribers for task in tasks)
    assert sorted(number for task in tasks for number in task.producers) == list(range(load.producers))
    assert sorted(number for task in tasks for number in task.subscribers) == list(range(load.subscribers))
    publishing = [task for task in tasks if task.producers]
    assert [task.place for task in publishing] == list(range(len(publishing)))
    assert {task.of for task in publishing} <= {len(publishing)}
    if len(tasks) > 1:
        assert not any(task.producers and task.subscribers for task in tasks)
