"""The two kinds of benchmark: time of a fixed amount of work, and figures that a workload takes itself.

`Timed` gives asv several samples to compare by a rank test; each is one call that does a fixed amount of work on a
freshly prepared variant, warmed up once. `Tracked` is a single figure in the lab's own unit.
"""

from __future__ import annotations

import contextlib
import gc
import math
import sys
from abc import ABC, abstractmethod
from statistics import median
from typing import Any, ClassVar

from portask.errors import UnknownVariant, VariantUnavailable
from portask_lab import instruments, workloads
from portask_lab.corpora import CorpusError
from portask_lab.workloads import NotForThis


class _Suite(ABC):
    params: ClassVar[list[list[str]]]
    param_names: ClassVar[list[str]] = ["variant", "case"]
    timeout: ClassVar[float] = 60.0
    version: ClassVar[str]

    @property
    @abstractmethod
    def workload(self) -> str:
        """`Workload.name`."""

    def __init_subclass__(cls) -> None:
        name = cls.__dict__.get("workload")
        if isinstance(name, str):
            family = workloads.get(name).family
            cls.params = [instruments.variants(family), list(instruments.cases(name))]
            cls.version = instruments.definition(name)

    def setup(self, variant: str, case: str) -> None:
        self.stack = contextlib.ExitStack()
        context = instruments.prepared(self.workload, variant, instruments.cases(self.workload)[case])
        try:
            self.work: Any = self.stack.enter_context(context)
        except (NotForThis, UnknownVariant, VariantUnavailable, CorpusError) as reason:
            sys.stderr.write(f"{variant}, {case}: {reason}\n")
            raise NotImplementedError from reason  # asv's word for "not applicable"

    def teardown(self, variant: str, case: str) -> None:
        self.stack.close()


class Timed(_Suite):
    """Seconds for `instruments.AMOUNTS` of work: messages, records, buffers, steps or bytes, as the workload counts."""

    warmup_time: ClassVar[float] = 0.0
    rounds: ClassVar[int] = 2
    repeat: ClassVar[tuple[int, int, float]] = (3, 8, 1.0)

    def setup(self, variant: str, case: str) -> None:
        super().setup(variant, case)
        self.iterations = instruments.iterations(self.workload, self.work)
        instruments.perform(self.work, self.iterations)
        if hasattr(self.work, "before"):
            self.work.before(self.iterations)

    def time_run(self, variant: str, case: str) -> None:
        gc.enable()  # timeit switches the collector off; the lab measures with it on
        self.work.run(self.iterations)


class Tracked(_Suite):
    """One metric: what a workload measures itself, or says beside its time (sizes, ratios)."""

    seconds: ClassVar[float] = 0.2
    unit: ClassVar[str]

    @property
    @abstractmethod
    def metric(self) -> str:
        """`Metric.name`."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        name, metric = cls.__dict__.get("workload"), cls.__dict__.get("metric")
        if isinstance(name, str) and isinstance(metric, str):
            cls.unit = workloads.get(name).metric(metric).unit

    def track_value(self, variant: str, case: str) -> float:
        if hasattr(self.work, "run"):
            extras: dict[str, float] = self.work.extras()
            return extras[self.metric]
        measurement = self.work.measure(self.seconds)
        self.work.verify()
        if measurement.invalid:
            sys.stderr.write(f"{variant}, {case}: does not count: {measurement.invalid}\n")
            return math.nan  # asv's word for "no figure"
        return float(median(measurement.metrics[self.metric]))
