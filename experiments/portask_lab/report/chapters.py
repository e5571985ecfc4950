"""A run, told in order: verdicts, winners, rankings, then each question in depth, then what stands behind it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from portask.contracts import FAMILIES
from portask_lab.report import (
    colours,
    compare,
    compression,
    growth,
    latency,
    matrix,
    memory,
    numbers,
    rankings,
    surroundings,
    tickets,
    verdicts,
    winners,
)
from portask_lab.report.document import Document, Heading, Items, Listing, Part, Prose, Section, Table
from portask_lab.report.method import METHOD
from portask_lab.results import Run
from portask_lab.statistics import Ratio

_DURABLE = ("storage.acks", "storage.published", "storage.recovery")
_IN_RAM = Prose(
    "These brokers keep messages in RAM (storage memory, durability memory), not in files as portask serve does "
    "unless told otherwise. What files cost is in the storage suite's figures."
)


def build(run: Run, leads: Mapping[str, Ratio]) -> Document:
    """The whole report of ``run``. Draws all pictures: takes seconds, needs matplotlib.

    Args:
        run: What to tell.
        leads: Family → winner ÷ runner-up, see `portask_lab.leads`.
    """
    swatches = colours.assign(run)
    candidates = (
        _verdicts(run, swatches),
        _winners(run, leads),
        *_rankings(run, swatches),
        _compression(run, swatches),
        _latency(run, swatches),
        _storage(run),
        _memory(run, swatches),
        _throughput(run, swatches),
        _scaling(run, swatches),
        _broker(run),
        _conformance(run),
        _noise(run),
        _where(run),
        _reproduce(run),
        Section("method", "How this was measured", (Items(METHOD),)),
    )
    when = run.started.replace("T", " ").removesuffix("Z")[:16]
    duration = f"took {numbers.seconds(run.seconds)}" if run.seconds else "not finished"
    return Document(
        "Portask lab report",
        f"Run {run.id} · profile {run.profile} · {when} UTC · {duration} · {run.machine.cpu}, "
        f"{run.machine.cores} cores",
        tuple(_warnings(run)),
        tuple(section for section in candidates if section is not None),
        swatches,
    )


def _warnings(run: Run) -> Iterable[str]:
    if not run.complete:
        yield (
            "This run is not complete: it was interrupted, or it has too few quiet blocks; the first notes say where. "
            "What it did measure is shown; what it did not is marked. Do not choose by it."
        )
    yield from tickets.warnings(run)
    broken = [item.variant for item in run.conformance if item.failed]
    if broken:
        yield f"{', '.join(broken)} did not pass conformance and is never selected; the reasons are below."


def _present(*parts: Part | None) -> tuple[Part, ...]:
    return tuple(part for part in parts if part is not None)


def _verdicts(run: Run, swatches: dict[str, str]) -> Section:
    if not run.criteria:
        return Section("verdicts", "Verdicts", (Prose("No criterion was judged in this run.", warning=True),))
    parts = _present(verdicts.verdicts(run), compare.marks(run, swatches), *verdicts.criterion_details(run))
    why = tuple(f"{item.title}: {item.explanation}" for item in verdicts.headlines(run) if item.explanation)
    ordered = sorted(run.notes, key=lambda note: not note.startswith("incomplete"))
    notes: tuple[Part, ...] = (
        (Items(tuple(ordered), f"Notes on this run ({len(ordered)})"),) if ordered else ()
    )
    return Section("verdicts", "Verdicts", (parts[0], *((Items(why),) if why else ()), *parts[1:], *notes))


def _winners(run: Run, leads: Mapping[str, Ratio]) -> Section:
    if not run.winners:
        return Section(
            "winners", "Winners", (Prose("No family was measured far enough to choose a winner."),)
        )
    text = f"To put these into a config file: portask lab select {run.id} -o portask.toml"
    parts: list[Part] = [winners.winners(run, leads), winners.reasons(run), Prose(text)]
    if run.confirmation:
        found = run.confirmation
        reason = f"{found.outcome.capitalize()}, in {found.rounds} rounds of their own: {found.reason}"
        parts += [
            Heading("The whole broker"),
            Prose(" ".join((reason, *found.notes))),
            winners.confirmed(found),
        ]
    return Section("winners", "Winners", tuple(parts))


def _rankings(run: Run, swatches: dict[str, str]) -> Iterable[Section]:
    measured = {case.family for case in run.cases}
    for family in (*FAMILIES, *sorted(measured - set(FAMILIES))):
        cases = [case for case in run.cases if case.family == family]
        if not cases:
            continue
        parts: list[Part] = [rankings.standing(run, family), *compare.forests(run, family, swatches)]
        known = {case.id for case in cases}
        if not any(s.verdict in rankings.COMPARED for s in run.summaries if s.case in known):
            text = "Nothing could be compared with the reference here; the notes above may say why."
            parts.insert(1, Prose(text, warning=True))
        parts += rankings.figures(run, cases, f"All figures of the {family} family ({len(cases)} cases)")
        yield Section(f"ranking-{family}", f"Ranking: {family}", tuple(parts))


def _compression(run: Run, swatches: dict[str, str]) -> Section | None:
    picture, table = compression.pareto(run, swatches), compression.table(run)
    traces = compression.traces(run, swatches)
    if table is None and not traces:
        return None
    heading = (Heading("Under a changing load"),) if traces else ()
    return Section(
        "compression", "Compression: size against speed", _present(picture, table, *heading, *traces)
    )


def _latency(run: Run, swatches: dict[str, str]) -> Section | None:
    table = latency.distributions(run)
    if table is None:
        return None
    mark = next((c.mark for c in run.criteria if c.unit == "µs" and "latency" in c.id), None)
    pictures = latency.percentiles(run, swatches, mark)
    rates = growth.latency_over_rate(run, swatches, mark)
    return Section("latency", "End-to-end latency", _present(_IN_RAM, *pictures, rates, table))


def _memory(run: Run, swatches: dict[str, str]) -> Section | None:
    table = memory.table(run)
    if table is None:
        return None
    return Section("memory", "Memory of queued messages", _present(memory.slopes(run, swatches), table))


def _throughput(run: Run, swatches: dict[str, str]) -> Section | None:
    picture = compare.bars(run, "throughput", swatches, "Network throughput")
    found = matrix.matrix(run, "throughput", folded=True)
    if not found:
        return None
    return Section("throughput", "Throughput beside other products", _present(_IN_RAM, picture, *found))


def _scaling(run: Run, swatches: dict[str, str]) -> Section | None:
    fair = matrix.matrix(run, "scaling", workloads=("network.fairness",))
    found = matrix.matrix(
        run, "scaling", workloads=("network.scaling", "network.scaling_latency"), folded=True
    )
    if not fair and not found:
        return None
    quiet = (
        (
            Heading("Quiet clients beside a loud one"),
            Prose(
                "Fair is a broker whose quiet clients wait no more than five times as long as when they are alone."
            ),
        )
        if fair
        else ()
    )
    picture = growth.scaling(run, swatches)
    return Section("scaling", "Scaling and fairness", _present(_IN_RAM, picture, *found, *quiet, *fair))


def _storage(run: Run) -> Section | None:
    found = matrix.matrix(run, "storage", workloads=_DURABLE)
    if not found:
        return None
    text = (
        "Each figure is of one durability: memory is lost with the process, os survives it, synced survives a power "
        "loss. What another product's mode means exactly is among the notes of this run."
    )
    return Section("storage", "What an acknowledgement costs", (Prose(text), *found))


def _broker(run: Run) -> Section | None:
    found = [table for suite in ("connections", "cpu") for table in matrix.matrix(run, suite)]
    return Section("broker", "Connections and CPU", (_IN_RAM, *found)) if found else None


def _conformance(run: Run) -> Section:
    parts: list[Part] = []
    if run.conformance:
        parts.append(tickets.conformance(run))
        if any(item.failures for item in run.conformance):
            parts.append(tickets.violations(run))
    else:
        parts.append(Prose("No conformance suite was run.", warning=True))
    if run.faults:
        parts.append(tickets.faults(run))
    else:
        parts.append(Prose("No measuring job crashed, hung, raised an error or gave wrong results."))
    if run.voids:
        parts.append(tickets.voids(run))
    else:
        parts.append(Prose("No measurement was void."))
    if run.unavailable:
        parts.append(tickets.unavailable(run))
    else:
        parts.append(Prose("Everything that these suites measure could run here."))
    return Section(
        "conformance", "Conformance, failures, void measurements, and what could not run", tuple(parts)
    )


def _noise(run: Run) -> Section:
    voided = sum(block.voided for block in run.blocks)
    text = (
        f"{voided} of {len(run.blocks)} blocks were voided by the rule fixed beforehand, all arms of a "
        "block together."
        if run.blocks
        else "No block was finished."
    )
    found: list[Table] = []
    if any(not floor.case for floor in run.noise_floors):
        found.append(surroundings.floors(run))
    if run.blocks:
        found += [surroundings.blocks(run), surroundings.every_block(run)]
    return Section("noise", "Noise", (Prose(text), *found))


def _where(run: Run) -> Section:
    found = [surroundings.machine(run)]
    if run.machine.libraries:
        found.append(surroundings.libraries(run))
    if run.corpora:
        found.append(surroundings.corpora(run))
    return Section("machine", "Machine and corpora", tuple(found))


def _reproduce(run: Run) -> Section:
    seeded = run.command if "--seed" in run.command else f"{run.command} --seed {run.seed}"
    lines = [seeded, f"portask lab report {run.id}", f"portask lab select {run.id} -o portask.toml"]
    text = (
        f"Seed {run.seed} fixes orders, schedules, generated corpora and the bootstrap. Commit: "
        f"{run.machine.commit or 'unknown'}. "
        "Every sample is in raw.ndjson, every figure in results.json beside this report."
    )
    return Section("reproduce", "How to reproduce", (Prose(text), Listing("\n".join(lines))))
