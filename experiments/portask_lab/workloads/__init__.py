"""What is done to a variant so that something can be measured: one module a family, for every instrument.

A *workload* is one definition of work. The lab, asv, memray and pytest-benchmark all call the same ones.
Importing a workload module is cheap (declarations only); libraries and variants are imported when a workload
is prepared.

**Adding workloads** is one file in this package. Its name is the prefix of its workloads' names
(``codec.encode`` lives in ``codec.py``), and it exports two tuples:

* ``WORKLOADS``: `Workload` declarations: name, family, metrics, and the function that prepares it.
* ``PLANS``: `Plan` declarations: which suite runs which workload with which parameters, in profile ``quick``
  and ``full``.

Nothing else has to be touched: `portask_lab.suites` collects all plans, `portask_lab.blocks` runs them in
randomized blocks and fresh processes, `portask_lab.summaries` sums up each metric.

**Preparing.** ``prepare(entry, corpus, params, seed)`` gets

* ``entry``: the `portask.registry.Entry` under test, or a yardstick's (below). Make instances with
  ``entry.make(**options)``.
* ``corpus``: a `portask_lab.corpora.Corpus`; an empty one when the plan names none.
* ``params``: one of the plan's parameter sets, with ``corpus`` added.
* ``seed``: derive all randomness from it.

and returns an object of one of two shapes. Both may have ``close()``, and both have ``verify()``, which
raises `WrongResult` when what was done is not what was asked: lost, reordered or altered messages make the
sample void and the variant fail.

1. `Timed`: ``run(iterations) -> work``. The worker times it: calibrates ``iterations``, discards warm-up,
   takes several samples. ``work`` is a count (messages, bytes, steps) *where the work ends*; the first metric
   of the workload turns work and nanoseconds into a value. May have ``before(iterations)``: set-up that is
   not timed, called before each ``run``. May have ``extras() -> {metric: value}``: figures without a clock.
2. `Measured`: ``measure(seconds) -> Measurement``. The workload takes its own measurements, which should fill
   about ``seconds``: starts servers and load generators, merges histograms, whatever it needs. This is the
   way for network workloads. It fills ``metrics`` (metric name → values, in the metric's unit) and, when it
   has them, ``latencies`` (histograms, for curves) and ``trace``. ``invalid`` says why a measurement must not
   count (generator late, under 99% of the rate); it is then shown as void, never as a figure, and nobody's
   fault. What a variant does wrong is raised.

A measuring process is fresh and runs nothing else meanwhile. It is given the jobs of its group one after the
other, in a random order; a plan with ``alone=True`` gets a process for every parameter set. A workload that
starts processes must wait for them (else their CPU time shows up as somebody else's in the noise ledger), and
end them when it fails.

**Yardsticks** are rows beside the variants: ``floor/…`` (an empty loop, a raw relay), ``ceiling/…`` (a plain
copy), ``peer/…`` (another product). A yardstick is a registry entry that is not in the registry: its target
is made and driven like any variant's by the family's workloads; its ``needs`` and ``requires`` say why it may
be unavailable. They are never ranked or selected.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, Protocol

import msgspec

from portask.errors import PortaskError
from portask.registry import Entry

if TYPE_CHECKING:  # the worker starts once per arm and block: it imports nothing that it does not use
    from portask_lab.corpora import Corpus

Params = Mapping[str, str | int | float | bool | None]
Prepare = Callable[[Entry, "Corpus", Params, int], Any]


class WrongResult(PortaskError):
    """A variant lost, reordered or altered something while it was measured, or did less than it was asked."""

    code = "wrong-result"


class NotForThis(PortaskError):
    """The workload needs an ability that the variant does not claim, e.g. processes."""

    code = "not-for-this"


class Metric(msgspec.Struct, frozen=True):
    """One figure of a workload.

    Attributes:
        name: Short, e.g. ``rate``, ``ratio``, ``p99``. The first metric of a `Timed` workload is the timed
            one.
        unit: As printed.
        better: ``higher``, ``lower``, or ``none`` for explaining figures, which are not compared.
        decimals: How many to print.
        scale: For the timed metric: value = ``scale`` · work ÷ seconds, or ``scale`` · seconds ÷ work when
            ``inverse``.
        inverse: See ``scale``.
        words: For people, where the name does not say what is counted.
    """

    name: str
    unit: str
    better: Literal["higher", "lower", "none"]
    decimals: int = 0
    scale: float = 1.0
    inverse: bool = False
    words: str = ""

    def value(self, work: int, nanoseconds: int) -> float:
        """The timed metric's value for ``work`` done in ``nanoseconds``."""
        seconds = max(nanoseconds, 1) / 1e9
        return self.scale * seconds / work if self.inverse else self.scale * work / seconds


class Yardstick(msgspec.Struct, frozen=True):
    """A row that is no variant. ``role`` is ``floor``, ``ceiling`` or ``peer``."""

    role: Literal["floor", "ceiling", "peer"]
    entry: Entry

    @property
    def label(self) -> str:
        """``role/name``, as reports print it."""
        return f"{self.role}/{self.entry.name}"


class Workload(msgspec.Struct, frozen=True):
    """One definition of work.

    Attributes:
        name: ``module.what``.
        family: Whose variants do it.
        target: Name of the prepare function or class in the module.
        title: One line for people.
        metrics: What comes out.
        yardsticks: Rows beside the variants.
        applies: Capability that a variant must claim (``threads``, ``processes``), or empty.
    """

    name: str
    family: str
    target: str
    title: str
    metrics: tuple[Metric, ...]
    yardsticks: tuple[Yardstick, ...] = ()
    applies: str = ""

    @property
    def prepare(self) -> Prepare:
        """The function ``prepare(entry, corpus, params, seed)``."""
        found: Prepare = getattr(_module(self.name), self.target)
        return found

    def metric(self, name: str) -> Metric:
        """The metric of that name.

        Raises:
            KeyError: the workload reported one that it does not declare.
        """
        for metric in self.metrics:
            if metric.name == name:
                return metric
        raise KeyError(f"{self.name} declares no metric {name!r}")


class Plan(msgspec.Struct, frozen=True):
    """Which suite runs a workload, and with what.

    Attributes:
        suite: One of `portask_lab.suites.SUITES`.
        workload: `Workload.name`.
        corpora: What it runs on: ``real`` (each of the real corpora, or the user's own), ``main`` (the first
            of those), ``tiny``, ``random``; empty for none. Every corpus is combined with every parameter
            set.
        quick: Parameter sets in profile ``quick``; none leaves it out.
        full: Parameter sets in profile ``full``; ``None`` for the same as ``quick``.
        seconds: Measuring time of one job, (quick, full); ``None`` for the profile's.
        alone: One process for each parameter set, instead of one for all jobs of the family.
        controlled: Whether the A/A control runs it too. Only for work so long that the budget forbids it.
        full_corpora: Corpora in profile ``full``; ``None`` for the same.
        applies: Capability that a variant must claim for these cases, beside the workload's own, or empty.
    """

    suite: str
    workload: str
    corpora: tuple[str, ...] = ()
    quick: tuple[Params, ...] = ({},)
    full: tuple[Params, ...] | None = None
    seconds: tuple[float, float] | None = None
    alone: bool = False
    controlled: bool = True
    full_corpora: tuple[str, ...] | None = None
    applies: str = ""


class Latencies(msgspec.Struct):
    """A latency distribution for a percentile curve, as a histogram.

    ``counts[i]`` messages took ``bounds[i]`` µs. Histograms of several processes are merged by adding, so all
    measurements of a case must use the same ``bounds``.

    Attributes:
        metric: The metric that the curve belongs to, e.g. ``p99``.
        bounds: µs, ascending; each the representative value of its bucket.
        counts: Messages, same length.
        rate: Offered messages a second, 0 for none.
        schedule: ``constant``, ``poisson``, or empty.
    """

    metric: str
    bounds: list[float]
    counts: list[int]
    rate: float = 0.0
    schedule: str = ""


class LoadTrace(msgspec.Struct):
    """See `portask_lab.results.Trace`; without the case and the variant."""

    phase: list[str]
    time: list[float]
    load: list[float]
    level: list[float]
    raw: list[int]
    packed: list[int]
    cpu: list[float] = []


class Measurement(msgspec.Struct):
    """What a `Measured` workload found.

    Attributes:
        metrics: Metric name → samples, in the metric's unit. Values of one process; one value is fine.
        latencies: Histograms for curves.
        trace: A load trace, when that is what was measured.
        notes: What a reader should know, e.g. the batch sizes that the linger produced.
        labels: What was seen of the variant that belongs beside its figures, e.g. ``{"held": "in files"}``.
        invalid: Why this must not count; empty when it may.
    """

    metrics: dict[str, list[float]] = {}
    latencies: list[Latencies] = []
    trace: LoadTrace | None = None
    notes: list[str] = []
    labels: dict[str, str] = {}
    invalid: str = ""


class Timed(Protocol):
    """Work that the worker times."""

    def run(self, iterations: int) -> int:
        """Does the work ``iterations`` times; returns how much was done, counted where it ends."""
        ...

    def verify(self) -> None:
        """Raises `WrongResult` unless the work is right. Called before timing and after."""
        ...


class Measured(Protocol):
    """Work that measures itself."""

    def measure(self, seconds: float) -> Measurement:
        """One measurement of about ``seconds``."""
        ...

    def verify(self) -> None:
        """Raises `WrongResult` unless what was measured was right. Called after `measure`."""
        ...


@cache
def _module(name: str) -> Any:
    return import_module(f"portask_lab.workloads.{name.partition('.')[0]}")


def modules() -> list[str]:
    """Names of the workload modules, sorted."""
    return sorted(info.name for info in pkgutil.iter_modules(__path__) if not info.name.startswith("_"))


def get(name: str) -> Workload:
    """The workload of that name.

    Raises:
        KeyError: there is none.
    """
    for workload in _module(name).WORKLOADS:
        if workload.name == name:
            found: Workload = workload
            return found
    raise KeyError(f"there is no workload {name!r}")


def workloads() -> Iterator[Workload]:
    """Every workload of every module."""
    for name in modules():
        yield from getattr(_module(name), "WORKLOADS", ())


def plans() -> Iterator[Plan]:
    """Every plan of every module."""
    for name in modules():
        yield from getattr(_module(name), "PLANS", ())
