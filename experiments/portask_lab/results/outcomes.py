"""The parts of a run that are words and numbers. The package's docstring explains the words."""

from __future__ import annotations

from typing import Literal

import msgspec

CONTROL_SUFFIX = "#again"
"""Appended to the reference's label: the A/A control."""

Better = Literal["higher", "lower", "none"]
Role = Literal["reference", "control", "variant", "peer", "floor", "ceiling"]
Verdict = Literal["faster", "slower", "indistinguishable", "reference", "A/A", "not compared"]
Judgement = Literal["pass", "fail", "inconclusive", "not measured"]
FailureKind = Literal["error", "wrong", "crashed", "hung", "not reached", "void"]
Scalar = str | int | float | bool | None


class Machine(msgspec.Struct, kw_only=True):
    """Where the run took place. `portask_lab.machine.fingerprint` fills it.

    Attributes:
        id: 12 hex digits over what makes results comparable: CPU model, cores, memory, kernel release,
            Python, implementation.
        commit: Of the checkout, ``+dirty`` appended when files differ; empty outside a checkout.
        python: Version, implementation and compiler, e.g. ``CPython 3.11.2 (GCC 12.2.0)``.
        libraries: Distribution → version, of every library that a variant or a peer may use; and ``wire helpers``,
            what `portask.wire.accelerate` found.
        kernel: ``uname -sr``.
        cpu: Model name.
        cores: Cores that this process may run on.
        memory: Bytes of RAM.
        gc: The garbage collector's policy during timed samples.
        limits: Resource limits that can bend results, e.g. ``{"RLIMIT_NOFILE": "20000/20000"}``.
        clock: What ``perf_counter`` and the kernel tick with, and its resolution.
        virtual: Hypervisor or container, as far as it shows; empty for none seen.
        governor: CPU frequency governor, ``"unknown"`` where the kernel does not say.
    """

    id: str
    commit: str
    python: str
    libraries: dict[str, str]
    kernel: str
    cpu: str
    cores: int
    memory: int
    gc: str
    limits: dict[str, str]
    clock: str
    virtual: str = ""
    governor: str = "unknown"


class CorpusInfo(msgspec.Struct, kw_only=True):
    """One set of messages that was used. Bytes are payload bytes, before any encoding.

    Attributes:
        name: Built-in name, or the file's name.
        what: One line for people.
        sha256: Over the file as it is on disk; over the payloads for generated corpora.
        records: Messages in use (after ``limit``).
        distinct: Different payloads among them; under 1,000 a note says so, because repetition flatters
            caches.
        bytes: Sum of payload lengths.
        median: Median payload length.
        largest: Longest payload.
        source: Where it comes from; the path for a user's file.
        notes: What a reader should know of it.
    """

    name: str
    what: str
    sha256: str
    records: int
    distinct: int
    bytes: int
    median: float
    largest: int
    source: str = ""
    notes: list[str] = []


class Case(msgspec.Struct, kw_only=True):
    """One metric of one workload with one set of parameters.

    Attributes:
        id: ``suite/workload/param=value,…/metric``: unique in the run.
        suite: One of `portask_lab.suites.SUITES`.
        family: Of the variants compared.
        workload: Name in `portask_lab.workloads`, e.g. ``codec.encode``.
        params: What distinguishes this case: corpus, batch size, payload size, rate, durability mode, threads
            or processes, …
        metric: What is counted, e.g. ``messages``, ``ratio``, ``p99``.
        unit: ``msg/s``, ``MB/s`` (10⁶), ``µs``, ``ns/record``, ``B/msg``, ``x`` (a plain ratio), ``%`` …
        better: Which way is better; ``"none"`` for figures that only explain others.
        decimals: How many to print.
        title: One line for people, without the metric.
        words: What is counted, where the metric's name would not say it.
    """

    id: str
    suite: str
    family: str
    workload: str
    params: dict[str, Scalar]
    metric: str
    unit: str
    better: Better
    decimals: int = 1
    title: str = ""
    words: str = ""


class Summary(msgspec.Struct, kw_only=True):
    """What one variant did in one case.

    Attributes:
        case: `Case.id`.
        variant: Label (see the module's head).
        role: What the variant is in this case.
        median: Median over processes of each process's median.
        low: Lower end of the interval of ``median``; ``None`` with fewer than two processes: no interval.
        high: Upper end.
        processes: Fresh processes behind it (voided blocks not counted).
        samples: Timed samples over all of them.
        ratio: ÷ the reference of the same blocks; ``None`` where there is no reference or it was not
            compared.
        ratio_low: Lower end of its interval.
        ratio_high: Upper end.
        p: Two-sided p-value of "the ratio is 1" before correction; ``None`` when not compared.
        verdict: After Holm's correction over the variants of the case, and only beyond the noise floor.
            ``faster`` means better (also for memory or size), ``slower`` worse.
        steady: False when drift was found after warm-up ("no steady state"); ``None`` for single-shot
            measurements.
        notes: Doubts, e.g. ``"2 of 5 processes crashed"``.
        least: The smallest of the processes' medians.
        most: The largest.
        labels: What was seen of the variant that belongs beside its figure, e.g. ``{"held": "in files"}``.
    """

    case: str
    variant: str
    role: Role
    median: float
    low: float | None
    high: float | None
    processes: int
    samples: int
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    p: float | None = None
    verdict: Verdict = "not compared"
    steady: bool | None = None
    notes: list[str] = []
    least: float | None = None
    most: float | None = None
    labels: dict[str, str] = {}


class NoiseFloor(msgspec.Struct, kw_only=True):
    """How far two runs of the very same thing lay apart. Effects inside it are "indistinguishable".

    Attributes:
        suite: Whose floor.
        metric: Whose; floors of different metrics differ (a size hardly varies, a rate does).
        case: `Case.id`, or ``""`` for the whole suite (95th percentile over its cases).
        floor: As a fraction: 0.03 means that ratios between 0.97 and 1.03 say nothing.
        ratio: A/A control ÷ reference; should lie at 1. ``None`` for a whole suite.
        low: Lower end of its interval.
        high: Upper end.
    """

    suite: str
    metric: str
    case: str
    floor: float
    ratio: float | None
    low: float | None
    high: float | None


class CriterionPart(msgspec.Struct, kw_only=True):
    """One case that a criterion was judged on. ``pass``: the interval lies wholly on the good side."""

    case: str
    metric: str
    value: float
    low: float | None
    high: float | None
    verdict: Judgement
    title: str = ""


class Criterion(msgspec.Struct, kw_only=True):
    """One written criterion applied to one variant; those of a criterion stand best first.

    ``headline`` marks the best variant that may be it, the line for the verdict table.

    Attributes:
        id: As in ``criteria.toml``.
        title: For people.
        mark: The pass mark, in ``unit``.
        unit: Unit.
        better: Whether the value must lie below (``lower``) or above (``higher``) the mark.
        measured_on: In words, what was measured.
        value: The worst of ``parts``; ``None`` when not measured.
        low: Lower end of its interval.
        high: Upper end.
        verdict: ``fail`` when any part fails, else ``inconclusive`` when any is, else ``pass``.
        variant: Label; empty when nothing was measured.
        case: The case of ``value``.
        explanation: One or two sentences: what decided it, or why there is nothing.
        headline: True for exactly one entry of each criterion.
        labels: What was seen of the variant beside its figures, e.g. ``{"held": "in files"}``.
        apart: What keeps it from being the headline whatever its figure, e.g. ``held in files``; empty for nothing.
        parts: Every case that was judged.
    """

    id: str
    title: str
    mark: float
    unit: str
    better: Better
    measured_on: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    verdict: Judgement = "not measured"
    variant: str = ""
    case: str = ""
    explanation: str = ""
    headline: bool = False
    labels: dict[str, str] = {}
    apart: str = ""
    parts: list[CriterionPart] = []


class Conformance(msgspec.Struct, kw_only=True):
    """The entry ticket of one variant. With any failure it is neither measured nor selected.

    ``failures`` holds ``check: detail`` lines.
    """

    variant: str
    passed: int
    failed: int
    not_applicable: int
    failures: list[str] = []


class Unavailable(msgspec.Struct, kw_only=True):
    """A registered variant, a peer or an entry point that could not run here, and what would change that."""

    variant: str
    reason: str


class Failure(msgspec.Struct, kw_only=True):
    """One job of one process that has no figure, and why.

    Attributes:
        variant: Label.
        suite: Its suite.
        workload: What was to be measured.
        params: With what.
        block: In which block.
        detail: What happened; ends with its stderr's tail.
        kind: ``error``: it raised; ``wrong``: it lost, reordered or altered something; ``crashed``: its process
            ended; ``hung``: it was killed when its time was up; ``not reached``: a job before it in the same process
            crashed or hung. ``void`` is no fault of the variant: the load generator was late, or the load was not
            reached, so that whatever was measured means nothing.
    """

    variant: str
    suite: str
    workload: str
    params: dict[str, Scalar]
    block: int
    detail: str
    kind: FailureKind = "error"


class Noise(msgspec.Struct, kw_only=True):
    """What disturbed one block. ``None`` where the kernel does not tell.

    Attributes:
        steal: Share of CPU time that the hypervisor gave to others, 0 to 1.
        pressure: Share of the time in which some task waited for a CPU (PSI ``some``), 0 to 1. Contains our
            own competing threads.
        involuntary: Involuntary context switches a second of the measured processes.
        load: One-minute load average at the end.
        foreign: CPU time that other processes used, in cores.
        speed: Slowest ÷ fastest time of the same small loop, over the block's processes: 1 when the CPU kept
            its speed. Clock changes and busy siblings of a core show nowhere else.
    """

    steal: float | None = None
    pressure: float | None = None
    involuntary: float | None = None
    load: float | None = None
    foreign: float | None = None
    speed: float | None = None


class Block(msgspec.Struct, kw_only=True):
    """One block of one suite.

    Attributes:
        suite: Its suite.
        index: From 0.
        order: The arms in the order in which they ran.
        started: Seconds since the run began.
        seconds: How long it took.
        noise: Its ledger.
        voided: True when the rule fixed beforehand threw it out, all arms together.
        reason: Which part of the rule.
    """

    suite: str
    index: int
    order: list[str]
    started: float
    seconds: float
    noise: Noise
    voided: bool = False
    reason: str = ""


class ConfirmedFigure(msgspec.Struct, kw_only=True):
    """One figure of the broker made of a run's winners beside the reference broker's.

    Attributes:
        name: ``throughput``, ``p50``, ``p99`` or ``cpu``.
        words: For people.
        unit: Of the values.
        better: Which way is better.
        winners: Value of the broker made of the winners; ``None`` where it has none.
        reference: Value of the reference broker.
        ratio: Winners ÷ reference, over the rounds.
        low: Lower end of its 95% interval.
        high: Upper end.
        floor: What the reference broker and itself under a second name differed by, as a fraction.
        verdict: After Holm's correction over the figures, and only beyond the floor: ``better``, ``worse``, ``not told
            apart``, or ``no figure``.
    """

    name: str
    words: str
    unit: str
    better: Better
    winners: float | None = None
    reference: float | None = None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    floor: float | None = None
    verdict: Literal["better", "worse", "not told apart", "no figure"] = "no figure"


class Confirmation(msgspec.Struct, kw_only=True):
    """Whether the whole broker made of a run's winners is better than the reference broker.

    Attributes:
        outcome: ``confirmed``: better in a figure and worse in none; ``not confirmed`` otherwise; ``nothing to
            confirm`` where every winner is the reference; ``skipped`` when it was not asked for.
        reason: In a sentence or two.
        started: ISO 8601, UTC.
        seconds: Wall time.
        rounds: Blocks that were measured for it alone.
        voided: Of these, by the noise rule.
        seed: Of their orders.
        corpus: The messages that went from client to client.
        results: Where its own results are, relative to the run.
        winners: Family → name, of the broker made of the winners.
        reference: Family → name, of the broker that it is compared with.
        figures: One each.
        notes: What a reader must know.
    """

    outcome: Literal["confirmed", "not confirmed", "nothing to confirm", "skipped"]
    reason: str
    started: str = ""
    seconds: float = 0.0
    rounds: int = 0
    voided: int = 0
    seed: int = 0
    corpus: str = ""
    results: str = ""
    winners: dict[str, str] = {}
    reference: dict[str, str] = {}
    figures: list[ConfirmedFigure] = []
    notes: list[str] = []


class Winner(msgspec.Struct, kw_only=True):
    """What `portask_lab.select` would put into the config for one family.

    Attributes:
        family: Its family.
        variant: Label; empty when nothing could be chosen.
        objective: In words, what was maximized or minimized.
        value: Of the winner, in ``unit``.
        unit: Unit.
        runner_up: Label of the next, empty for none.
        runner_up_value: Its value.
        tie: True when the two lie within the noise floor and simplicity decided.
        reason: One sentence.
    """

    family: str
    variant: str
    objective: str
    value: float | None = None
    unit: str = ""
    runner_up: str = ""
    runner_up_value: float | None = None
    tie: bool = False
    reason: str = ""
