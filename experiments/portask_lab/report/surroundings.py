"""Where and under which conditions a run took place, as tables: noise, machine, libraries, corpora."""

from __future__ import annotations

from collections.abc import Sequence

from portask_lab.report import numbers
from portask_lab.report.document import Cell, Table
from portask_lab.report.tables import columns
from portask_lab.results import Block, Run


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
