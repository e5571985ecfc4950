"""Quick looks while developing: ``make bench``. A plain test run skips these; the lab decides, not these."""

from typing import Any

import pytest

from portask_lab import instruments, workloads
from portask_lab.workloads import NotForThis

CASES = [
    pytest.param(
        workload.name,
        variant,
        case,
        id=f"{workload.name}-{variant}",
        marks=pytest.mark.benchmark(group=f"{workload.name} {case}"),
    )
    for workload in workloads.workloads()
    if hasattr(workload.prepare, "run")
    for case in list(instruments.cases(workload.name))[:1]
    for variant in instruments.variants(workload.family)
]


@pytest.mark.parametrize(("workload", "variant", "case"), CASES)
def test_workload(benchmark: Any, workload: str, variant: str, case: str) -> None:
    try:
        with instruments.prepared(workload, variant, instruments.cases(workload)[case]) as work:
            iterations = instruments.iterations(workload, work)

            def before() -> None:
                if hasattr(work, "before"):
                    work.before(iterations)

            done = benchmark.pedantic(work.run, (iterations,), setup=before, rounds=15, warmup_rounds=1)
            benchmark.extra_info["work"] = done
            work.verify()
    except NotForThis as reason:
        pytest.skip(str(reason))
