"""A summary for people, narrow enough for a terminal, and plain enough to be pasted into an issue."""

from __future__ import annotations

import shutil
import textwrap

import click

from portask.cli.bench.figures import Cpu, Latency, Rate
from portask.cli.bench.orders import Load
from portask.cli.bench.summary import Summary
from portask.cli.output import is_terminal
from portask.measuring.openloop import WARM_UP


def show(found: Summary) -> None:
    """Prints it."""
    setting, load = found.setting, found.load
    click.echo(f"{setting.command}\n")
    made = {"server": setting.server, "storage": setting.storage, "durability": setting.durability}
    cores = f"{setting.cores} core{'s' if setting.cores > 1 else ''}"
    _rows(
        "broker",
        f"{setting.broker} at {setting.address}",
        ", ".join(f"{name} {what}" for name, what in made.items() if what),
    )
    _rows("client", f"portask {setting.client}, codec {setting.codec}, compression {setting.compression}")
    _rows("machine", f"{cores}, {setting.cpu_model}", f"{setting.python}, {setting.kernel}")
    click.echo()
    if found.published is not None:
        _rows("published", *_rate(found.published, "acknowledged", 1))
    if found.received is not None:
        _rows("received", *_received(found, found.received))
    _rows("batches", *_batches(found))
    if found.latency is not None:
        _rows("latency", *_latency(found.latency, load))
    _rows("cpu", *(_cpu(each, spins=load.kind == "latency") for each in found.cpu))
    click.echo()
    _words(found)


def _rows(label: str, *texts: str) -> None:
    for text in texts:
        click.echo(f"{label:<11}{text}")
        label = ""


def _received(found: Summary, rate: Rate) -> list[str]:
    if not rate.messages:
        return ["nothing"]
    wrong = ", ".join(found.faults.words()) if found.faults is not None else ""
    proof = click.style(wrong.upper(), fg="red", bold=True)
    copies = 1 if found.load.group else found.load.subscribers
    return _rate(rate, proof if wrong else "none lost, repeated, reordered or altered", copies)


def _rate(rate: Rate, proof: str, copies: int) -> list[str]:
    figure = f"{rate.messages_per_second:,.0f} msg/s  {rate.bytes_per_second / 1e6:,.1f} MB/s"
    rows = [
        f"{click.style(figure, bold=True)}  in {rate.seconds:.2f} s",
        f"{rate.messages:,} messages, {proof}",
    ]
    if copies > 1:
        each = rate.messages_per_second / copies
        rows.append(f"{copies} subscribers, each gets everything: {each:,.0f} msg/s each")
    parts = rate.by_process
    if len(parts) > 1:
        mean = sum(parts) / len(parts)
        rows.append(f"by process: min {min(parts):,.0f}, avg {mean:,.0f}, max {max(parts):,.0f} msg/s")
    return rows


def _batches(found: Summary) -> list[str]:
    rows = []
    if found.formed is not None:
        made = found.formed
        rows.append(
            f"published {made.count:,}, of {made.messages:,.1f} messages and {made.bytes:,.0f} bytes on average"
        )
    if found.delivered is not None:
        got = found.delivered
        sizes = f"{got.messages:,.1f} messages on average, median {got.median:,}, largest {got.largest:,}"
        rows.append(f"delivered {got.count:,}, of {sizes}")
    return rows


def _latency(latency: Latency, load: Load) -> list[str]:
    if not latency.messages:
        return [f"none: no message came after the warm-up of {WARM_UP * (load.seconds or 0):g} s"]
    figures = {
        "p50": latency.p50_us,
        "p90": latency.p90_us,
        "p99": latency.p99_us,
        "p99.9": latency.p999_us,
        "max": latency.max_us,
    }
    shown = "  ".join(f"{name} {_time(value)}" for name, value in figures.items())
    share = latency.late / latency.sends if latency.sends else 0
    return [
        click.style(shown, bold=True),
        f"{latency.messages:,} messages, from the intended send time; clients included",
        f"{load.schedule}, {load.rate:,g} msg/s; {share:.1%} sent over 10 ms late, at worst {_time(latency.worst_us)}",
    ]


def _cpu(cpu: Cpu, *, spins: bool) -> str:
    waited = "" if cpu.waited is None else f", waited {cpu.waited:.0%}"
    spinning = ", spinning" if spins and "producer" in cpu.does else ""
    return f"process {cpu.process}: {cpu.busy:.0%} of a core{spinning}{waited} ({cpu.does})"


def _time(us: float) -> str:
    return f"{us / 1e6:.2f} s" if us >= 1e6 else f"{us / 1e3:.1f} ms" if us >= 10_000 else f"{us:,.0f} µs"


def _words(found: Summary) -> None:
    _say(f"The first {WARM_UP:.0%} of the time is warm-up: it is in no rate or latency.")
    if found.interrupted:
        _say("Interrupted: these are the figures up to then.")
    if found.failure:
        unknown = "These are the figures up to then; what was under way is not accounted for."
        _say(f"Broke off: {found.failure}. {unknown}", fg="red", bold=True)
    for note in found.notes:
        _say(f"Note: {note}.", fg="yellow")
    for problem in found.problems:
        _say(f"WRONG: {problem}.", fg="red", bold=True)


def _say(sentence: str, **style: str | bool) -> None:
    """A sentence, wrapped where it would be wrapped by a terminal in the middle of a word."""
    if is_terminal():
        sentence = textwrap.fill(sentence, shutil.get_terminal_size().columns)
    click.secho(sentence, **style)  # type: ignore[arg-type]
