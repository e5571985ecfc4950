"""The parts of a run that become pictures: curves, traces, trade-offs, memory lines."""

from __future__ import annotations

import msgspec

from portask_lab.results.outcomes import Role, Scalar


class Curve(msgspec.Struct, kw_only=True):
    """A latency distribution.

    ``values[i]`` µs is the ``percentiles[i]``-th percentile, all processes' histograms merged.

    Attributes:
        case: `Case.id` of the p99 (or p50) at this load.
        variant: Label.
        role: Role of the variant.
        rate: Offered messages a second, 0 where it does not apply.
        schedule: ``constant``, ``poisson``, or empty.
        percentiles: 0 to 100, ascending.
        values: µs, same length.
        count: Messages behind it.
    """

    case: str
    variant: str
    role: Role
    rate: float
    schedule: str
    percentiles: list[float]
    values: list[float]
    count: int


class Trace(msgspec.Struct, kw_only=True):
    """What a strategy chose over time under a changing load; all lists have one entry a step.

    Attributes:
        case: `Case.id` of the workload's main metric.
        variant: Label.
        phase: Name of the load phase: ``idle``, ``ramp``, ``saturated``, ``idle again``.
        time: Seconds since the trace began.
        load: 0 idle to 1 saturated.
        level: Compression level chosen; 0 means left as it was.
        raw: Bytes in.
        packed: Bytes out.
        cpu: Seconds of CPU spent in the step.
    """

    case: str
    variant: str
    phase: list[str]
    time: list[float]
    load: list[float]
    level: list[float]
    raw: list[int]
    packed: list[int]
    cpu: list[float] = []


class Point(msgspec.Struct, kw_only=True):
    """A place in a trade-off: compression ratio against speed, per corpus and batch size.

    Attributes:
        plot: Which picture, e.g. ``compression``.
        variant: Label.
        role: Role (a plain copy is the ceiling).
        params: Corpus, batch size, …
        x: For compression: MB/s of raw bytes compressed.
        y: For compression: raw bytes ÷ packed bytes.
        x_low: Interval of ``x``; ``None`` for none.
        x_high: Interval of ``x``.
        z: For compression: MB/s of raw bytes decompressed.
        front: True when no other variant is better in both ``x`` and ``y``.
    """

    plot: str
    variant: str
    role: Role
    params: dict[str, Scalar]
    x: float
    y: float
    x_low: float | None
    x_high: float | None
    z: float | None = None
    front: bool = False


class MemoryLine(msgspec.Struct, kw_only=True):
    """Memory of queued messages.

    A line through (messages, private bytes), each point a median over fresh processes.

    Attributes:
        case: `Case.id` of the slope.
        variant: Label.
        messages: Messages queued, ascending.
        private: Private_Clean + Private_Dirty of the whole process, bytes.
        growth: ``private`` minus that of the same process before the first message.
        peak: Peak resident set of the process, bytes.
        slope: Bytes a message, least squares over ``growth``.
        payload: Bytes a payload.
        durability: What an acknowledgement meant, e.g. ``os``.
        held: Where the messages were found: ``in RAM`` or ``in files``.
    """

    case: str
    variant: str
    messages: list[int]
    private: list[float]
    growth: list[float]
    peak: list[float]
    slope: float
    payload: int
    durability: str = ""
    held: str = ""
