"""What stands behind the figures, as tables: trade-offs, distributions, entry tickets, noise, machine, corpora."""

from __future__ import annotations

from collections.abc import Sequence

from portask_lab.report import numbers
from portask_lab.report.document import Cell, Table, Tone
from portask_lab.report.tables import columns, variant
from portask_lab.results import Block, Curve, Run

_HUNDRED_THOUSAND = 100_000


def trade_offs(run: Run) -> Table | None:
    """Compression points: ratio and both speeds."""
    points = [point for point in run.points if point.plot == "compression"]
    if not points:
        return None
    scale = numbers.Scale(1.0, "MB/s", 0)
    rows = []
    for point in sorted(
        points, key=lambda p: (str(p.params.get("corpus", "")), numbers.params(p.params), -p.x)
    ):
        front: tuple[str, Tone] = ("● front", "pass") if point.front else ("", "")
        rows.append(
            (
                Cell(numbers.params(point.params)),
                variant(point.variant),
                Cell(f"{point.y:.2f}×"),
                Cell(scale.text(point.x)),
                Cell(scale.interval(point.x_low, point.x_high) or "–"),
                Cell(scale.text(point.z)),
                Cell(*front),
            )
        )
    return Table(
        "Compression: ratio (raw ÷ packed) against speed, MB/s of raw bytes",
        columns(
            "Corpus and batch", "Variant", "Ratio#", "Compress#", "95% interval#", "Decompress#", "Pareto"
        ),
        tuple(rows),
        folded=True,
    )


def distributions(run: Run) -> Table | None:
    """Latency percentiles of every curve, void ones with their reason."""
    if not run.curves:
        return None
    rows = []
    before = ""
    for curve in sorted(run.curves, key=lambda c: (c.rate, c.schedule, at_percentile(c, 99) or 0.0)):
        load = f"{curve.rate:,.0f} msg/s" if curve.rate else "unpaced"
        text = f"{load}{', ' + curve.schedule if curve.schedule else ''}"
        first, before = text != before, text
        shown = [
            numbers.plain(at_percentile(curve, p), 1) if curve.valid else "–" for p in (50, 90, 99, 99.9, 100)
        ]
        rows.append(
            (
                Cell(text if first else "", "strong"),
                variant(curve.variant),
                *(Cell(text) for text in shown),
                Cell(f"{curve.count:,}"),
                Cell("" if curve.valid else f"✗ void: {curve.reason or 'no reason recorded'}", "fail"),
            )
        )
    return Table(
        "End-to-end latency, µs from the intended send time to the receipt",
        columns("Load", "Variant", "p50#", "p90#", "p99#", "p99.9#", "largest#", "Messages#", "Valid"),
        tuple(rows),
    )


def at_percentile(curve: Curve, percentile: float) -> float | None:
    """The curve's value there; ``None`` beyond what its messages support (ten must lie above a percentile)."""
    if percentile < 100 and curve.count * (1 - percentile / 100) < 10:
        return None
    return next(
        (v for p, v in zip(curve.percentiles, curve.values, strict=True) if p >= percentile - 1e-9), None
    )


def memory(run: Run) -> Table | None:
    """Slope, growth, total and peak of every memory line."""
    if not run.memory:
        return None
    rows = []
    for line in sorted(run.memory, key=lambda line: (line.payload, line.slope)):
        place = next(
            (at for at, n in enumerate(line.messages) if n >= _HUNDRED_THOUSAND), len(line.messages) - 1
        )
        rows.append(
            (
                variant(line.variant),
                Cell(line.durability or "—"),
                Cell(f"{line.payload} B"),
                Cell(f"{line.slope:,.1f}"),
                Cell(f"{line.slope - line.payload:,.1f}"),
                Cell(f"{line.messages[place]:,}"),
                *(Cell(f"{series[place] / 1e6:,.2f}") for series in (line.growth, line.private, line.peak)),
            )
        )
    return Table(
        "Memory of queued messages: slope in bytes a message; growth, whole process and peak in MB",
        columns(
            "Variant",
            "Durability",
            "Payload#",
            "Slope#",
            "Over payload#",
            "At messages#",
            "Growth#",
            "Private#",
            "Peak RSS#",
        ),
        tuple(rows),
    )


def gist(text: str) -> str:
    """First and last line: what happened, and the error at a traceback's end. The whole text stays in the results."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " … ".join(dict.fromkeys((lines[0], lines[-1]))) if lines else ""


def conformance(run: Run) -> Table:
    """Entry tickets."""
    measured = {summary.variant for summary in run.summaries}
    rows = []
    for item in run.conformance:
        if item.failed:
            # a reference is measured whatever it does: without it there would be no ratio at all
            text = (
                "✗ measured, never selected" if item.variant in measured else "✗ not measured, never selected"
            )
            verdict = Cell(text, "fail")
        elif item.passed:
            verdict = Cell("✓ may be ranked", "pass")
        else:
            verdict = Cell("? nothing was checked", "doubt")
        rows.append(
            (
                variant(item.variant),
                Cell(str(item.passed)),
                Cell(str(item.failed), "fail" if item.failed else ""),
                Cell(str(item.not_applicable)),
                verdict,
            )
        )
    return Table(
        "Conformance: the entry ticket to every comparison",
        columns("Variant", "Passed#", "Failed#", "Not applicable#", "Ticket"),
        tuple(rows),
    )


def violations(run: Run) -> Table:
    """The checks that failed, and why."""
    rows = []
    for item in run.conformance:
        for failure in item.failures:
            check, _, detail = failure.partition(": ")
            rows.append((variant(item.variant), Cell(check), Cell(gist(detail) or "–", "fail")))
    return Table("Checks that failed", columns("Variant", "Check", "What was found"), tuple(rows))


def failures(run: Run) -> Table:
    """Crashes, time-outs and wrong results."""
    rows = tuple(
        (
            variant(item.variant),
            Cell(item.suite),
            Cell(", ".join(part for part in (item.workload, numbers.params(item.params)) if part)),
            Cell(str(item.block)),
            Cell(gist(item.detail), "fail"),
        )
        for item in run.failures
    )
    return Table(
        "Processes that crashed, hung or gave wrong results",
        columns("Variant", "Suite", "Work", "Block#", "What happened"),
        rows,
    )


def unavailable(run: Run) -> Table:
    """What could not run, and what would change that."""
    rows = tuple((variant(item.variant), Cell(item.reason)) for item in run.unavailable)
    return Table("Not measured here", columns("Variant", "Why, and what brings it"), rows)


def floors(run: Run) -> Table:
    """The A/A control of each suite: what two runs of the same thing differ by."""
    rows = []
    for floor in (floor for floor in run.noise_floors if not floor.case):
        own = [f for f in run.noise_floors if f.case and (f.suite, f.metric) == (floor.suite, floor.metric)]
        known = [(f.low, f.high) for f in own if f.low is not None and f.high is not None]
        biased = sum(not low <= 1 <= high for low, high in known)
        ratios = [f.ratio for f in own if f.ratio is not None]
        rows.append(
            (
                Cell(floor.suite),
                Cell(floor.metric),
                Cell(f"±{numbers.percent(floor.floor)}"),
                Cell(str(len(own))),
                Cell(f"{min(ratios):.3f} to {max(ratios):.3f}" if ratios else "–"),
                Cell(
                    f"{biased} of {len(known)}" if known else "–", "doubt" if biased * 10 > len(known) else ""
                ),
            )
        )
    return Table(
        "A/A control: the reference against itself. The floor is the 95th percentile over the cases; one "
        "interval in "
        "twenty may leave out 1 by chance",
        columns("Suite", "Figure", "Noise floor#", "Cases#", "Again ÷ reference#", "Intervals without 1#"),
        tuple(rows),
    )


def blocks(run: Run) -> Table:
    """The noise ledger, a line a suite: median and worst."""
    rows = []
    for suite in dict.fromkeys(block.suite for block in run.blocks):
        own = [block for block in run.blocks if block.suite == suite]
        voided = sum(block.voided for block in own)
        noise = [block.noise for block in own]
        rows.append(
            (
                Cell(suite),
                Cell(str(len(own))),
                Cell(str(voided), "doubt" if voided else ""),
                Cell(numbers.seconds(sum(block.seconds for block in own))),
                Cell(_share([n.steal for n in noise])),
                Cell(_share([n.pressure for n in noise])),
                Cell(_range([n.involuntary for n in noise], 0)),
                Cell(_range([n.load for n in noise], 1)),
                Cell(_range([n.foreign for n in noise], 2)),
                Cell(_range([n.speed for n in noise], 3)),
            )
        )
    return Table(
        "Noise ledger by suite, median and worst of its blocks: time stolen by the hypervisor, time in which somebody "
        "waited for a CPU, involuntary context switches a second, load average, cores that others used, and slowest ÷ "
        "fastest time of the same small loop",
        columns(
            "Suite",
            "Blocks#",
            "Voided#",
            "Time#",
            "Steal#",
            "Pressure#",
            "Switches#",
            "Load#",
            "Others#",
            "Loop#",
        ),
        tuple(rows),
    )


def _worst(values: Sequence[float | None]) -> tuple[float, float] | None:
    known = sorted(value for value in values if value is not None)
    if not known:
        return None
    middle = len(known) // 2
    return (known[middle] + known[~middle]) / 2, known[-1]


def _share(values: Sequence[float | None]) -> str:
    found = _worst(values)
    return f"{numbers.percent(found[0])}, {numbers.percent(found[1])}" if found else "unknown"


def _range(values: Sequence[float | None], decimals: int) -> str:
    found = _worst(values)
    return f"{found[0]:,.{decimals}f}, {found[1]:,.{decimals}f}" if found else "unknown"


def every_block(run: Run) -> Table:
    """One line a block, with the order of its arms."""
    return Table(
        "Every block",
        columns(
            "Suite",
            "Block#",
            "Started#",
            "Took#",
            "Steal#",
            "Pressure#",
            "Foreign cores#",
            "Counts",
            "Order of the arms",
        ),
        tuple(_block_row(block) for block in run.blocks),
        folded=True,
    )


def _block_row(block: Block) -> tuple[Cell, ...]:
    noise = block.noise
    return (
        Cell(block.suite),
        Cell(str(block.index)),
        Cell(numbers.seconds(block.started)),
        Cell(numbers.seconds(block.seconds)),
        Cell(numbers.percent(noise.steal)),
        Cell(numbers.percent(noise.pressure)),
        Cell(numbers.plain(noise.foreign, 2)),
        Cell(f"voided: {block.reason}" if block.voided else "yes", "doubt" if block.voided else ""),
        Cell(" · ".join(block.order), "muted"),
    )


def machine(run: Run) -> Table:
    """The fingerprint."""
    m = run.machine
    facts = {
        "Fingerprint": m.id,
        "CPU": f"{m.cpu}, {m.cores} cores usable",
        "Memory": numbers.binary_size(m.memory),
        "Kernel": m.kernel,
        "Virtual": m.virtual or "nothing seen",
        "Frequency governor": m.governor,
        "Clock": m.clock,
        "Python": m.python,
        "Garbage collector": m.gc,
        "Limits": ", ".join(f"{name} {value}" for name, value in m.limits.items()) or "not recorded",
        "Commit": m.commit or "not a checkout",
    }
    return Table(
        "Machine", columns("Fact", "Value"), tuple((Cell(k, "strong"), Cell(v)) for k, v in facts.items())
    )


def libraries(run: Run) -> Table:
    """Versions of everything that may matter."""
    rows = tuple(
        (Cell(name, code=True), Cell(version)) for name, version in sorted(run.machine.libraries.items())
    )
    return Table("Library versions", columns("Distribution", "Version"), rows, folded=True)


def corpora(run: Run) -> Table:
    """The messages that everything was measured on."""
    rows = tuple(
        (
            Cell(item.name, "strong"),
            Cell(f"{item.records:,}"),
            Cell(f"{item.distinct:,}"),
            Cell(numbers.size(item.bytes)),
            Cell(f"{item.median:,.0f} B"),
            Cell(f"{item.largest:,} B"),
            Cell("; ".join(part for part in (item.what, item.source, *item.notes) if part)),
            Cell(item.sha256[:16], code=True),
        )
        for item in run.corpora
    )
    return Table(
        "Corpora",
        columns(
            "Name", "Messages#", "Distinct#", "Payload#", "Median#", "Largest#", "What", "SHA-256, first 16"
        ),
        rows,
    )
