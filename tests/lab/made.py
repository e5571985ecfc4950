"""Results made by hand, for tests of what is concluded from them."""

from collections.abc import Mapping, Sequence

from portask.config.fingerprint import fingerprint
from portask_lab import results
from portask_lab.results import (
    Block,
    Case,
    Conformance,
    Machine,
    Noise,
    NoiseFloor,
    Role,
    Run,
    Scalar,
    Summary,
    case_id,
)


def machine() -> Machine:
    """This machine, as far as receipts compare it."""
    facts = fingerprint()
    return Machine(
        id="0123456789ab",
        commit="abc",
        python=f"{facts['python']} (cc)",
        libraries={},
        kernel=str(facts["kernel"]),
        cpu=str(facts["cpu_model"]),
        cores=int(facts["cores"]),
        memory=1 << 30,
        gc="on",
        limits={},
        clock="tsc",
    )


def empty_run(suites: Sequence[str] = ("serialization",), voided: int = 0) -> Run:
    """A complete run without cases: four blocks a suite, so many of them voided."""
    blocks = [
        Block(
            suite=suite,
            index=index,
            order=[],
            started=0.0,
            seconds=1.0,
            noise=Noise(),
            voided=index < voided,
            reason="noise" if index < voided else "",
        )
        for suite in suites
        for index in range(4)
    ]
    return Run(
        id="20260101-000000-quick",
        started="2026-01-01T00:00:00+00:00",
        seconds=1.0,
        profile="quick",
        seed=1,
        command="portask lab run",
        suites=list(suites),
        complete=True,
        machine=machine(),
        blocks=blocks,
    )


def add(
    run: Run,
    workload: str,
    metric: str,
    values: Mapping[str, float | tuple[float, float | None, float | None]],
    *,
    suite: str = "serialization",
    better: results.Better = "higher",
    unit: str = "msg/s",
    params: Mapping[str, Scalar] | None = None,
    floor: float | None = None,
    labels: Mapping[str, dict[str, str]] | None = None,
) -> Case:
    """Adds a case; a bare value gets an interval of ±1%. ``labels`` are by variant."""
    params = dict(params or {})
    case = Case(
        id=case_id(suite, workload, params, metric),
        suite=suite,
        family=next(iter(values)).partition("/")[0],
        workload=workload,
        params=params,
        metric=metric,
        unit=unit,
        better=better,
    )
    run.cases.append(case)
    for number, (label, given) in enumerate(values.items()):
        role: Role = "reference" if number == 0 else "variant"
        if label.endswith(results.CONTROL_SUFFIX):
            role = "control"
        elif label.partition("/")[0] in {"floor", "ceiling", "peer"}:
            role = label.partition("/")[0]  # type: ignore[assignment]
        value, low, high = given if isinstance(given, tuple) else (given, given * 0.99, given * 1.01)
        summary = Summary(
            case=case.id,
            variant=label,
            role=role,
            median=value,
            low=low,
            high=high,
            processes=4,
            samples=12,
            least=value,
            most=value,
            labels=(labels or {}).get(label, {}),
        )
        run.summaries.append(summary)
        if role in {"reference", "variant"} and not any(each.variant == label for each in run.conformance):
            run.conformance.append(Conformance(variant=label, passed=5, failed=0, not_applicable=0))
    if floor is not None:
        run.noise_floors.append(
            NoiseFloor(suite=suite, metric=metric, case="", floor=floor, ratio=None, low=None, high=None)
        )
    return case
