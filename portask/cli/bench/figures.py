"""From what the processes counted to figures: rates within a window, CPU use, and whether everything arrived.

**Warm-up.** The first fifth of the time is left out, whatever happened in it. For rates the time is that from the start
to the last message counted; for latency, that of the schedule.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import msgspec

from portask.cli.bench.conductor import Outcome
from portask.cli.bench.ledger import Stream
from portask.cli.bench.orders import LATENCY_BITS, Load, Report, Series, SubscriberReport, Task, Timing
from portask.measuring.histogram import Histogram
from portask.measuring.openloop import LATE_SHARED_NS, WARM_UP, judge

BUSY = 0.9
"""A process that worked for more than this share of the window made the figures, not the broker."""
CROWDED = 0.1
"""One that waited for a core for more than this share was on a machine with too much to do."""
SHORT = 0.5
"""Seconds of a window below which a rate is more chance than measure."""


class Rate(msgspec.Struct, frozen=True):
    """Messages a second within a window.

    Attributes:
        messages: In the whole run, warm-up included.
        seconds: Length of the window.
        messages_per_second: Over all processes.
        bytes_per_second: Of payloads.
        by_process: Messages a second of each that had a part in it.
    """

    messages: int
    seconds: float
    messages_per_second: float
    bytes_per_second: float
    by_process: list[float]


class Cpu(msgspec.Struct, frozen=True):
    """What a process cost within the window, as shares of one core.

    Attributes:
        process: Its number, from 1.
        does: What runs in it.
        busy: CPU time.
        waited: Time for which it could have run and had no core; ``None`` where the kernel does not say.
    """

    process: int
    does: str
    busy: float
    waited: float | None


class Faults(msgspec.Struct):
    """What is wrong with what was received.

    Attributes:
        lost: Messages that should have come and did not, summed over subscribers.
        repeated: Messages that came again, likewise.
        reordered: Messages that came after a later one of the same producer and partition, likewise.
        altered: Messages whose bytes are not those that were sent, likewise.
        invented: Messages that came and were never sent, likewise.
    """

    lost: int = 0
    repeated: int = 0
    reordered: int = 0
    altered: int = 0
    invented: int = 0

    def words(self) -> list[str]:
        """``3 lost`` and its like."""
        return [f"{count:,} {name}" for name, count in msgspec.structs.asdict(self).items() if count]


class Latency(msgspec.Struct, frozen=True):
    """Latencies, and how well the schedule was kept.

    Attributes:
        messages: How many were timed.
        mean_us: Of them.
        p50_us: Likewise; this and the next three to within 0.8%.
        p90_us: Likewise.
        p99_us: Likewise.
        p999_us: Likewise.
        max_us: Likewise.
        sends: Messages that were due within the window.
        late: Those that were sent over 10 ms after their time.
        worst_us: The most by which one was.
        invalid: Why the run must not count; empty if it may.
    """

    messages: int
    mean_us: float
    p50_us: float
    p90_us: float
    p99_us: float
    p999_us: float
    max_us: float
    sends: int
    late: int
    worst_us: float
    invalid: str


def at(series: Series, time: float) -> float:
    """The count at a moment: between two samples, in proportion; before the first and after the last, as there."""
    times, values = series.times, series.values
    if not times:
        return 0
    place = bisect_right(times, time)
    if place == 0:
        return values[0]
    if place == len(times):
        return values[-1]
    share = (time - times[place - 1]) / (times[place] - times[place - 1])
    return values[place - 1] + share * (values[place] - values[place - 1])


def last(series: Iterable[Series]) -> int:
    """When the last message was counted, ns; 0 if none was."""
    return max((each.times[-1] for each in series if each.times and each.values[-1]), default=0)


def span(start: int, end: int) -> tuple[float, float]:
    """The window of a run from ``start`` to ``end``: without the warm-up."""
    return start + WARM_UP * (end - start), end


def rate(counts: Sequence[Series], window: tuple[float, float], size: Sequence[Series] | int) -> Rate:
    """What was counted within a window.

    Args:
        counts: Messages over time, one a process.
        window: ns.
        size: Bytes over time, or of each message.
    """
    begin, end = window
    seconds = max(0.0, end - begin) / 1e9
    total = sum(one.values[-1] for one in counts if one.values)
    if not seconds:
        return Rate(total, 0.0, 0.0, 0.0, [0.0 for _ in counts])
    each = [(at(one, end) - at(one, begin)) / seconds for one in counts]
    sized = counts if isinstance(size, int) else size
    volume = sum(at(one, end) - at(one, begin) for one in sized) / seconds
    if isinstance(size, int):
        volume *= size
    return Rate(total, seconds, sum(each), volume, each)


def cpu(tasks: Sequence[Task], reports: Sequence[Report | None], window: tuple[float, float]) -> list[Cpu]:
    """What each process cost."""
    begin, end = window
    length = max(end - begin, 1)
    found = []
    for number, (task, report) in enumerate(zip(tasks, reports, strict=True), 1):
        if report is not None:
            waited = report.waited
            found.append(
                Cpu(
                    number,
                    _does(task),
                    (at(report.cpu, end) - at(report.cpu, begin)) / length,
                    (at(waited, end) - at(waited, begin)) / length if waited.times else None,
                )
            )
    return found


def _does(task: Task) -> str:
    parts = [(len(task.producers), "producer"), (len(task.subscribers), "subscriber")]
    return ", ".join(f"{count} {name}{'s' if count > 1 else ''}" for count, name in parts if count)


def latency(load: Load, timings: Sequence[Timing]) -> Latency:
    """All processes' latencies together, judged."""
    found = Histogram(LATENCY_BITS)
    for each in timings:
        found.add(each.filled, each.total, each.largest)
    sends = sum(each.sends for each in timings)
    late = sum(each.late for each in timings)
    worst = max((each.worst for each in timings), default=0)
    arrived = sum(each.arrived for each in timings)
    count = found.count
    p50, p90, p99, p999 = (found.percentile(share) / 1000 for share in (0.5, 0.9, 0.99, 0.999))
    return Latency(
        count,
        found.total / count / 1000 if count else 0.0,
        p50,
        p90,
        p99,
        p999,
        found.largest / 1000,
        sends,
        late,
        worst / 1000,
        judge(sends * load.subscribers, arrived, sends, late=late, worst=worst, limit=LATE_SHARED_NS),
    )


def faults(load: Load, outcome: Outcome) -> Faults:
    """What is wrong with what each subscriber received, or a group's members together.

    Without producers of its own (``sub``) a bench knows of a loss by the holes that it leaves; of a group, whose other
    members may be elsewhere, not even that. After a failure nobody knows what was still to come: then only holes count.
    """
    reports = [report for report in outcome.reports if report is not None]
    subscribers = [each for report in reports for each in report.subscribers]
    made: dict[
        tuple[int, int], tuple[int, int]
    ] = {}  # messages acknowledged and made, by producer and partition
    for report in reports:
        for producer in report.producers:
            for partition, (acked, count) in enumerate(zip(producer.acked, producer.made, strict=True)):
                made[producer.number, partition] = (acked, count)
    whole = load.kind != "sub" and outcome.failure is None
    found = Faults(altered=sum(each.altered for each in subscribers))
    if load.group:
        _add(found, _together(subscribers), made, whole=whole, holes=False, ordered=False)
    else:
        for each in subscribers:
            _add(found, each.streams, made, whole=whole, holes=True, ordered=True)
    return found


def _together(subscribers: Sequence[SubscriberReport]) -> list[Stream]:
    """What the members of a group have, as if one had it."""
    parts: defaultdict[tuple[str, int, int, int], list[Stream]] = defaultdict(list)
    for each in subscribers:
        for stream in each.streams:
            parts[stream.topic, stream.partition, stream.run, stream.producer].append(stream)
    merged = []
    for key, streams in parts.items():
        ranges: list[tuple[int, int]] = []
        repeated = sum(stream.repeated for stream in streams)
        for start, stop in sorted(span for stream in streams for span in stream.ranges):
            if ranges and start <= ranges[-1][1]:
                repeated += min(stop, ranges[-1][1]) - start
                ranges[-1] = (ranges[-1][0], max(stop, ranges[-1][1]))
            else:
                ranges.append((start, stop))
        merged.append(Stream(*key, ranges, repeated, 0))
    return merged


def _add(
    found: Faults,
    streams: Sequence[Stream],
    made: dict[tuple[int, int], tuple[int, int]],
    *,
    whole: bool,
    holes: bool,
    ordered: bool,
) -> None:
    """Adds one subscriber's faults. ``whole``: all that was acknowledged in ``made`` must be there."""
    missing = dict(made)
    for stream in streams:
        found.repeated += stream.repeated
        if ordered:
            found.reordered += stream.late
        acked, count = missing.pop((stream.producer, stream.partition), (0, 0))
        if made:
            found.invented += sum(max(0, stop - max(start, count)) for start, stop in stream.ranges)
        if whole:
            found.lost += acked - sum(max(0, min(stop, acked) - start) for start, stop in stream.ranges)
        elif holes:
            found.lost += stream.ranges[-1][1] - stream.ranges[0][0] - stream.count
    if whole:
        found.lost += sum(acked for acked, _ in missing.values())


def batch_sizes(subscribers: Iterable[SubscriberReport]) -> Counter[int]:
    """How many messages delivered batches had → how often."""
    found: Counter[int] = Counter()
    for each in subscribers:
        found.update(dict(each.batches))
    return found
