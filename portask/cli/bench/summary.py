"""What a run came to: for machines as one object, for people as text that can be pasted into an issue."""

from __future__ import annotations

from collections import Counter
from typing import Any

import click
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


# ── for people ────────────────────────────────────────────────────────────────────────────────────────────────────────


def show(found: Summary) -> None:
    """Prints it."""
    setting, load = found.setting, found.load
    click.echo(setting.command)
    click.echo()
    parts = {"server": setting.server, "storage": setting.storage, "durability": setting.durability}
    made = "".join(f", {name} {what}" for name, what in parts.items() if what)
    _line("broker", f"{setting.broker} at {setting.address}{made}")
    _line("client", f"portask {setting.client}, codec {setting.codec}, compression {setting.compression}")
    cores = f"{setting.cores} core{'s' if setting.cores > 1 else ''}"
    _line("machine", f"{cores}, {setting.cpu_model}; {setting.python}, {setting.kernel}")
    click.echo()
    if found.published is not None:
        _show_rate("published", found.published, "acknowledged", 1)
    if found.received is not None and not found.received.messages:
        _line("received", "nothing")
    elif found.received is not None and found.faults is not None:
        wrong = ", ".join(found.faults.words())
        proof = (
            click.style(wrong.upper(), fg="red", bold=True)
            if wrong
            else "none lost, repeated, reordered or altered"
        )
        _show_rate("received", found.received, proof, 1 if load.group else load.subscribers)
    _show_batches(found)
    if found.latency is not None:
        _show_latency(found.latency, load)
    for each in found.cpu:
        waited = "" if each.waited is None else f", waited {each.waited:.0%}"
        spins = ", spinning between sends" if load.kind == "latency" and "producer" in each.does else ""
        _line(
            "cpu" if each is found.cpu[0] else "",
            f"process {each.process}: {each.busy:.0%} of a core{waited}{spins} ({each.does})",
        )
    click.echo()
    _show_words(found)


def _line(label: str, text: str) -> None:
    click.echo(f"{label:<11}{text}")


def _show_rate(label: str, rate: Rate, proof: str, copies: int) -> None:
    figure = f"{rate.messages_per_second:,.0f} msg/s  {rate.bytes_per_second / 1e6:,.1f} MB/s"
    _line(
        label,
        f"{click.style(figure, bold=True)}  in {rate.seconds:.2f} s; {rate.messages:,} messages, {proof}",
    )
    if copies > 1:
        each = rate.messages_per_second / copies
        _line("", f"{copies} subscribers, each gets everything: {each:,.0f} msg/s each")
    if len(rate.by_process) > 1:
        parts = rate.by_process
        _line(
            "",
            f"by process: min {min(parts):,.0f}, avg {sum(parts) / len(parts):,.0f}, max {max(parts):,.0f} msg/s",
        )


def _show_batches(found: Summary) -> None:
    label = "batches"
    if found.formed is not None:
        each = found.formed
        _line(
            label,
            f"published {each.count:,}, of {each.messages:,.1f} messages and {each.bytes:,.0f} bytes on average",
        )
        label = ""
    if found.delivered is not None:
        got = found.delivered
        _line(
            label,
            f"delivered {got.count:,}, of {got.messages:,.1f} messages on average, median {got.median:,}, "
            f"largest {got.largest:,}",
        )


def _show_latency(latency: Latency, load: Load) -> None:
    if not latency.messages:
        _line(
            "latency",
            f"nothing to tell: no message came after the warm-up of {WARM_UP * (load.seconds or 0):g} s",
        )
        return
    shown = "  ".join(
        f"{name} {_time(value)}"
        for name, value in (
            ("p50", latency.p50_us),
            ("p90", latency.p90_us),
            ("p99", latency.p99_us),
            ("p99.9", latency.p999_us),
            ("max", latency.max_us),
        )
    )
    _line("latency", f"{click.style(shown, bold=True)}  of {latency.messages:,} messages")
    _line("", "from the intended send time to the subscriber's loop, broker and both clients included")
    share = latency.late / latency.sends if latency.sends else 0
    _line(
        "schedule",
        f"{load.schedule}, {load.rate:,g} msg/s; {share:.1%} of the sends over 10 ms late, "
        f"the worst {_time(latency.worst_us)}",
    )


def _time(us: float) -> str:
    return f"{us / 1e6:.2f} s" if us >= 1e6 else f"{us / 1e3:.1f} ms" if us >= 10_000 else f"{us:,.0f} µs"


def _show_words(found: Summary) -> None:
    click.echo(f"The first {WARM_UP:.0%} of the time is warm-up: it is in no rate or latency.")
    if found.interrupted:
        click.echo("Interrupted: these are the figures up to then.")
    if found.failure:
        click.secho(
            f"Broke off: {found.failure}. These are the figures up to then; what was under way is not accounted for.",
            fg="red",
            bold=True,
        )
    for note in found.notes:
        click.secho(f"Note: {note}.", fg="yellow")
    for problem in found.problems:
        click.secho(f"WRONG: {problem}.", fg="red", bold=True)
