"""What a run came to, as one object: what a machine gets, and what `portask.cli.bench.text` says to people."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec

from portask.cli.bench import figures
from portask.cli.bench.conductor import Outcome
from portask.cli.bench.figures import Cpu, Faults, Latency, Rate
from portask.cli.bench.orders import Load, Report
from portask.measuring.openloop import WARM_UP


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured, and with what.

    Attributes:
        command: The command line that does it again.
        broker: Name and version, as the broker says.
        durability: What its acks mean, likewise.
        server: Variant that moves its bytes, likewise; empty if it does not say.
        storage: Likewise.
        address: ``host:port``.
        client: Version of this program.
        codec: That batches were written with.
        compression: Likewise.
        python: Implementation and version.
        kernel: System and release.
        cores: That this program may use.
        cpu_model: Of this machine.
    """

    command: str
    broker: str
    durability: str
    server: str
    storage: str
    address: str
    client: str
    codec: str
    compression: str
    python: str
    kernel: str
    cores: int
    cpu_model: str


class Formed(msgspec.Struct, frozen=True):
    """Batches as they were published: how many, and of how many messages and encoded bytes on average."""

    count: int
    messages: float
    bytes: float


class Delivered(msgspec.Struct, frozen=True):
    """Batches as they came: how many, of how many messages on average, at half of them at most, and in the largest."""

    count: int
    messages: float
    median: int
    largest: int


class Summary(msgspec.Struct, kw_only=True):
    """All of it. What a command does not measure is ``None``.

    Attributes:
        ok: Whether the figures may be used: nothing failed, nothing is wrong with what came, the run is valid.
        setting: See `Setting`.
        load: What was to be done.
        warm_up: Share of the time that is left out of all rates and latencies.
        interrupted: Whether the user ended it.
        failure: Why it could not go on; empty if it could.
        problems: What is wrong with the result, a sentence each; any makes the exit code 1.
        notes: What to know before the figures are used, likewise; they do not.
        published: Counted at the acks.
        received: Counted at the subscribers, all together.
        faults: What is wrong with what they received.
        foreign: Messages that came and are of no bench, or of another run.
        formed: See `Formed`.
        delivered: See `Delivered`.
        latency: See `portask.cli.bench.figures.Latency`.
        cpu: One a process.
    """

    ok: bool = False
    setting: Setting
    load: Load
    warm_up: float = WARM_UP
    interrupted: bool = False
    failure: str = ""
    problems: list[str] = []
    notes: list[str] = []
    published: Rate | None = None
    received: Rate | None = None
    faults: Faults | None = None
    foreign: int = 0
    formed: Formed | None = None
    delivered: Delivered | None = None
    latency: Latency | None = None
    cpu: list[Cpu] = []

    @property
    def counted(self) -> bool:
        """Whether any message was."""
        return any(rate is not None and rate.messages for rate in (self.published, self.received))

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        found: dict[str, Any] = msgspec.to_builtins(self)
        return found


def summarize(setting: Setting, load: Load, outcome: Outcome) -> Summary:
    """From what the processes reported to figures and what is to be said of them."""
    reports = [report for report in outcome.reports if report is not None]
    load = msgspec.structs.replace(load, access={})  # a token is nobody's to read
    found = Summary(setting=setting, load=load, interrupted=outcome.interrupted, problems=[], notes=[])
    found.failure = " ".join(str(outcome.failure).split()) if outcome.failure is not None else ""
    windows = []
    if load.producers:
        windows.append(_published(found, outcome, reports))
    if load.subscribers:
        windows.append(_received(found, outcome, reports))
    if load.kind == "latency":
        found.latency = figures.latency(load, [report.timing for report in reports])
        early = not found.latency.sends and (found.interrupted or found.failure)
        if found.latency.invalid and not early:
            found.problems.append(f"the run is invalid: {found.latency.invalid}")
    begin, end = min(window[0] for window in windows), max(window[1] for window in windows)
    if end > begin:
        found.cpu = figures.cpu(outcome.tasks, outcome.reports, (begin, end))
        _remark(found, (end - begin) / 1e9)
    found.ok = not found.problems and not found.failure
    return found


def _published(found: Summary, outcome: Outcome, reports: list[Report]) -> tuple[float, float]:
    load = found.load
    counts = [report.published for report, task in _publishing(outcome) if task]
    window = figures.span(outcome.start, figures.last(counts) or outcome.start)
    found.published = figures.rate(counts, window, load.size)
    batches, messages, size = (sum(report.batches[place] for report in reports) for place in range(3))
    if batches:
        found.formed = Formed(batches, messages / batches, size / batches)
    acked = sum(sum(each.acked) for report in reports for each in report.producers)
    if load.messages is not None and acked < load.messages and not found.failure and not found.interrupted:
        found.problems.append(f"only {acked:,} of {load.messages:,} messages were acknowledged")
    return window


def _publishing(outcome: Outcome) -> list[tuple[Report, bool]]:
    return [
        (report, bool(task.producers))
        for report, task in zip(outcome.reports, outcome.tasks, strict=True)
        if report is not None
    ]


def _received(found: Summary, outcome: Outcome, reports: list[Report]) -> tuple[float, float]:
    load = found.load
    receiving = [report for report in reports if report.subscribers]
    subscribers = [each for report in receiving for each in report.subscribers]
    counts = [report.received for report in receiving]
    start = outcome.start
    if load.kind == "sub":
        start = min((each.first for each in subscribers if each.first), default=start)
    window = figures.span(start, figures.last(counts) or start)
    found.received = figures.rate(counts, window, [report.received_bytes for report in receiving])
    found.faults = figures.faults(load, outcome)
    found.foreign = sum(each.foreign for each in subscribers)
    sizes = figures.batch_sizes(subscribers)
    if sizes:
        count = sizes.total()
        found.delivered = Delivered(
            count, sum(size * often for size, often in sizes.items()) / count, _median(sizes), max(sizes)
        )
    if wrong := found.faults.words():
        found.problems.append(f"what was received is not what was published: {', '.join(wrong)}")
    if found.foreign:
        found.notes.append(
            f"{found.foreign:,} messages of others came too: they are left out of counts and rates, and took their time"
        )
    _missed(found, outcome, counts=[each.messages for each in subscribers])
    return window


def _missed(found: Summary, outcome: Outcome, counts: list[int]) -> None:
    """Of ``sub``: that fewer came than were asked for, or none."""
    load = found.load
    if load.kind != "sub" or found.interrupted or found.failure:
        return
    got = sum(counts) if load.group else min(counts)
    if load.messages is not None and got < load.messages:
        found.problems.append(
            f"{got:,} of {load.messages:,} messages of {load.topic} came, then none for {outcome.silent:g} s"
        )
    elif not got:
        found.problems.append(
            f"no message of a bench came from {load.topic} within {outcome.silent:g} s; --from earliest begins with "
            "the oldest that are kept"
        )


def _median(sizes: Counter[int]) -> int:
    left = sizes.total() / 2
    for size, often in sorted(sizes.items()):
        left -= often
        if left <= 0:
            return size
    return 0


def _remark(found: Summary, seconds: float) -> None:
    """Notes on whose limits the figures show."""
    load = found.load
    if seconds < figures.SHORT and load.kind != "latency":
        found.notes.append(
            f"the rates are those of {seconds:.2f} s: too short to compare; raise "
            f"{'--messages' if load.seconds is None else '--duration'}"
        )
    if load.rate and load.kind != "latency" and found.published is not None:
        reached = found.published.messages_per_second / load.rate
        if reached < 0.99:
            found.notes.append(f"only {reached:.1%} of the rate of {load.rate:,g} msg/s was reached")
    if load.kind != "latency":  # there they spin, and what decides is whether they were late
        for each in found.cpu:
            if each.busy > figures.BUSY:
                found.notes.append(
                    f"process {each.process} ({each.does}) used {each.busy:.0%} of its core: this is the limit of the "
                    "client, not of the broker; spread the load over more --processes"
                )
    waited = max((each.waited or 0 for each in found.cpu), default=0)
    if waited > figures.CROWDED:
        found.notes.append(
            f"the clients waited {waited:.0%} of the time for a core: the {found.setting.cores} cores here have too "
            "much to do, and the figures show it"
        )
