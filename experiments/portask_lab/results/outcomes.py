"""The parts of a run that are words and numbers, as they were found. The package's docstring explains the words."""

from __future__ import annotations

from typing import Literal

import msgspec

CONTROL_SUFFIX = "#again"
"""Appended to the reference's label: the A/A control."""

Better = Literal["higher", "lower", "none"]
Role = Literal["reference", "control", "variant", "peer", "floor", "ceiling"]
Verdict = Literal["faster", "slower", "indistinguishable", "reference", "A/A", "not compared"]
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
