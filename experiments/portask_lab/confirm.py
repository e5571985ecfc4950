"""Are the winners better together, too? The whole broker made of them, beside the reference broker, in fresh rounds.

A run chooses each part by itself, and whatever is chosen as the best of several looks a little better than it is. So
the choice is not trusted: the broker made of the winners and the reference broker run once more, in rounds that had no
say in the choice, by the same rules as in any run (`portask_lab.blocks`): fresh processes, random order, the reference
twice, the noise rule.

**Figures.** Throughput from client to client, with the codec and compression that the broker recommends to its clients,
on the run's own messages; p50 and p99 at 1,000 msg/s and CPU at 50,000 msg/s by the lean generator.

**The rule**, fixed here: *confirmed* when at least one figure is better and none is worse, each beyond the noise floor
and with a p-value below 5% after Holm's correction over the four. Everything else is *not confirmed*.

**The same durability.** A log that survives kill -9 is not laid beside one that forgets: where the winners' storage is
durable and the reference one is not, the reference broker has the winners' storage, too. What the storage brings was
compared in the run; here it cannot be.

Compression is on both sides what each broker recommends. Loopback has no link whose time it could save, so here it can
only cost; an outcome that this may have decided says so.
"""

from __future__ import annotations

import shutil
import time
import zlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from portask.errors import ConfigError
from portask_lab import machine, results, statistics, summaries, whole, workloads
from portask_lab.corpora import CONTROLS, REAL, Corpus, CorpusError
from portask_lab.corpora.load import load
from portask_lab.noise import Rule
from portask_lab.results import (
    CONFIRMATION,
    Confirmation,
    ConfirmedFigure,
    Run,
    Winner,
)
from portask_lab.suites import QUICK
from portask_lab.whole import REFERENCE, WINNERS

SECONDS = 60.0
"""Wall time that a confirmation may take."""


class _Asked(NamedTuple):
    name: str
    words: str
    workload: str
    metric: str


_FIGURES = (
    _Asked("throughput", "throughput, client to client", "network.client_throughput", "rate"),
    _Asked("p50", "p50 at 1,000 msg/s", "network.latency", "p50"),
    _Asked("p99", "p99 at 1,000 msg/s", "network.latency", "p99"),
    _Asked("cpu", "CPU at 50,000 msg/s", "network.cpu", "cpu"),
)

_SAID: dict[str, Literal["better", "worse"]] = {"faster": "better", "slower": "worse"}

Progress = Callable[[str, float, float], None]
"""``progress(text, done, left)``: what goes on, the share that is over, seconds left."""


def skipped() -> Confirmation:
    """For those who do not want to wait."""
    return Confirmation(outcome="skipped", reason="It was not asked for (--no-confirm).")


def confirm(
    run: Run,
    winners: Sequence[Winner],
    directory: Path,
    *,
    seconds: float = SECONDS,
    progress: Progress = lambda _text, _done, _left: None,
    rule: Rule | None = None,
) -> Confirmation:
    """Measures for about ``seconds`` and writes its results to ``directory/confirmation``, replacing earlier ones.

    Raises:
        ConfigError: the directory cannot be written.
    """
    ours, theirs, notes = whole.brokers(winners)
    if ours == theirs:
        reason = "Every winner is the reference" + (", but for the storage." if notes else ".")
        return Confirmation(outcome="nothing to confirm", reason=reason, notes=notes)
    place = _place(directory)
    corpus, remark = _corpus(run)
    notes += [remark] if remark else []
    seed = zlib.crc32(f"confirm|{run.seed}|{time.time_ns()}".encode())
    start, started = time.monotonic(), datetime.now(UTC).isoformat(timespec="seconds")

    def told(text: str, share: float) -> None:
        progress(text, share, seconds * (1 - share))

    data = whole.measure(ours, theirs, corpus, seed, seconds, told, rule)
    record = Run(
        id=f"{run.id}/{CONFIRMATION}",
        started=started,
        seconds=time.monotonic() - start,
        profile="confirmation",
        seed=seed,
        command=f"portask lab select {run.id}",
        suites=[data.suite.name],
        complete=data.complete,
        machine=machine.fingerprint(),
        corpora=[corpus.info()],
    )
    part = summaries.part(data, seed)
    summaries.fill(record, [], [part])
    found = judge(record)
    compressed = ours.get("compression") != theirs.get("compression")
    if found.outcome == "not confirmed" and compressed and _verdict(found, "throughput") == "worse":
        notes.append(
            "Loopback has no link whose time compression could save: where clients are elsewhere, measure there."
        )
    record.confirmation = msgspec.structs.replace(
        found,
        started=started,
        seconds=record.seconds,
        seed=seed,
        corpus=corpus.name,
        results=CONFIRMATION,
        winners=ours,
        reference=theirs,
        notes=notes,
    )
    results.append_raw(place / results.RAW, part.raw)
    results.save(record, place)
    return record.confirmation


def judge(record: Run) -> Confirmation:
    """What the rounds of a confirmation say; see the module's head for the rule."""
    figures = [_figure(record, asked) for asked in _FIGURES]
    compared = [(figure, asked) for figure, asked in zip(figures, _FIGURES, strict=True) if figure.ratio]
    adjusted = statistics.holm([_p(record, asked) for _, asked in compared])
    blind = sum(not block.voided for block in record.blocks) < 2
    for (figure, _), p in zip(compared, adjusted, strict=True):
        figure.verdict = "not told apart"
        if not blind and figure.ratio and figure.floor is not None:
            said = statistics.verdict(figure.ratio, p, figure.floor, figure.better)
            figure.verdict = _SAID.get(said, "not told apart")
    voided = sum(block.voided for block in record.blocks)
    good, reason = _outcome(record, figures, blind=blind)
    outcome: Literal["confirmed", "not confirmed"] = "confirmed" if good else "not confirmed"
    return Confirmation(
        outcome=outcome, reason=reason, rounds=len(record.blocks), voided=voided, figures=figures
    )


def _outcome(record: Run, figures: Sequence[ConfirmedFigure], *, blind: bool) -> tuple[bool, str]:
    by_verdict: dict[str, list[str]] = {}
    for figure in figures:
        by_verdict.setdefault(figure.verdict, []).append(figure.words)
    better, worse = by_verdict.get("better", []), by_verdict.get("worse", [])
    missing = by_verdict.get("no figure", [])
    faults = [each for each in record.faults if each.variant == WINNERS]
    if faults:
        return False, f"The broker made of the winners failed: {faults[0].detail.splitlines()[0]}"
    if blind:
        rounds, voided = len(record.blocks), sum(block.voided for block in record.blocks)
        noise = f", {voided} of them too noisy" if voided else ""
        return False, f"Nothing was compared: {rounds} round{'s' * (rounds != 1)}{noise}, when time was up."
    if missing:
        return False, f"There is no figure for {_list(missing)}: {_why(record)}."
    if worse:
        also = f", though better in {_list(better)}" if better else ""
        return False, f"The winners together are worse in {_list(worse)}{also}."
    if better:
        return (
            True,
            f"The winners together are better in {_list(better)}, and worse in nothing that was measured.",
        )
    return False, "The winners together cannot be told from the reference in any figure."


def _why(record: Run) -> str:
    if not record.failures:
        return "it was not measured"
    more = f", and {len(record.failures) - 1} more like it" if len(record.failures) > 1 else ""
    return f"{record.failures[0].detail.splitlines()[0]}{more}"


def _list(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{'; '.join(words[:-1])} and {words[-1]}"


def _verdict(found: Confirmation, name: str) -> str:
    return next((figure.verdict for figure in found.figures if figure.name == name), "")


def _figure(record: Run, asked: _Asked) -> ConfirmedFigure:
    metric = workloads.get(asked.workload).metric(asked.metric)
    ours, theirs = _of(record, asked, WINNERS), _of(record, asked, REFERENCE)
    made = ConfirmedFigure(name=asked.name, words=asked.words, unit=metric.unit, better=metric.better)
    made.winners = None if ours is None else ours.median
    made.reference = None if theirs is None else theirs.median
    if ours and ours.ratio is not None:
        made.ratio, made.low, made.high = ours.ratio, ours.ratio_low, ours.ratio_high
        floors = [each.floor for each in record.noise_floors if each.case == ours.case]
        made.floor = max(floors, default=None)
    return made


def _of(record: Run, asked: _Asked, label: str) -> results.Summary | None:
    cases = {
        case.id for case in record.cases if (case.workload, case.metric) == (asked.workload, asked.metric)
    }
    return next((each for each in record.summaries if each.case in cases and each.variant == label), None)


def _p(record: Run, asked: _Asked) -> float:
    found = _of(record, asked, WINNERS)
    return 1.0 if found is None or found.p is None else found.p


def _corpus(run: Run) -> tuple[Corpus, str]:
    """The run's main messages, or the first built-in ones and a remark when those are not there any more."""
    for info in [each for each in run.corpora if each.name not in CONTROLS][:1]:
        name = info.name if info.name in REAL else info.source
        try:
            corpus = load(name, QUICK.messages, run.seed)
        except CorpusError as error:
            why = str(error)
        else:
            if corpus.sha256 == info.sha256:
                return corpus, ""
            why = f"{name} has changed since the run"
        return load(REAL[0], QUICK.messages), f"Measured on {REAL[0]} and not on the run's messages: {why}."
    return load(REAL[0], QUICK.messages), ""


def _place(directory: Path) -> Path:
    place = directory / CONFIRMATION
    try:
        if place.exists():
            shutil.rmtree(place)
        place.mkdir()
    except OSError as error:
        raise ConfigError(
            f"{place} cannot be written: {error.strerror or error}; make it writable, or give --no-confirm"
        ) from error
    return place
