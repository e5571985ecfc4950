"""Blocks: complete, randomized, each arm in a process of its own; what a variant does wrong is its failure alone."""

import os
import time
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from portask import registry
from portask_lab import blocks, noise, suites, summaries, worker, workloads
from portask_lab.blocks import SuiteData, ask, run_suite
from portask_lab.corpora.load import load
from portask_lab.noise import Ledger, Rule
from portask_lab.results import Noise
from portask_lab.suites import QUICK, Job, Suite
from portask_lab.worker import Line, Spec, sample
from portask_lab.workloads import Measurement, Metric
from tests.lab.made import empty_run
from tests.lab.variants import entry

SUITE = Suite("rings", "Rings", "?", 30.0, 30.0)
NEVER = Rule(steal=2.0, foreign=1e9)
FAST = msgspec.structs.replace(QUICK, blocks=2, most=2, seconds=0.004, samples=4)
JOB = Job("ring.single", {"corpus": "tiny"}, FAST.seconds, FAST.samples, "ring", True)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    path = tmp_path_factory.mktemp("corpora") / "tiny"
    load("tiny", 200).write(path)
    return {"tiny": str(path)}


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    # measuring processes find tests.lab.variants from the checkout
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))


def test_every_arm_runs_once_a_block_in_a_process_of_its_own(files: dict[str, str]) -> None:
    entries = [registry.get("ring", "deque"), entry("good"), entry("chatty")]
    every = blocks.arms([JOB], entries)
    data = run_suite(SUITE, FAST, every, files, 3, rule=NEVER)
    labels = ["ring/deque", "ring/deque#again", "ring/good", "ring/chatty", "floor/bare-list"]
    assert [arm.label for arm in every] == labels
    assert not data.failures
    assert len(data.blocks) == 2
    for block in data.blocks:
        assert sorted(block.order) == sorted(arm.key for arm in every)
        assert block.noise.speed is not None
        assert block.noise.speed >= 1
    assert {Counter(each.arm.label for each in data.taken)[label] for label in labels} == {2}
    processes = {each.process for each in data.taken}
    assert len(processes) == len(data.taken)
    assert os.getpid() not in processes
    assert all(len(each.measurement.metrics["cost"]) == FAST.samples for each in data.taken)


def test_orders_come_from_the_seed_and_differ_between_blocks(files: dict[str, str]) -> None:
    entries = [registry.get("ring", name) for name in ("deque", "simplequeue")]
    every = blocks.arms([JOB], entries)
    profile = msgspec.structs.replace(FAST, blocks=3, most=3, samples=1, seconds=0.001)
    one, again = (run_suite(SUITE, profile, every, files, 5, rule=NEVER) for _ in range(2))
    orders = [block.order for block in one.blocks]
    assert orders == [block.order for block in again.blocks]
    assert len({tuple(order) for order in orders}) > 1


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("lossy", "wrong", "WrongResult"),
        ("dying", "crashed", "SIGKILL"),
        ("raising", "error", "out of cheese"),
    ],
)
def test_a_variants_fault_is_its_own(files: dict[str, str], name: str, kind: str, words: str) -> None:
    every = blocks.arms([JOB], [registry.get("ring", "deque"), entry(name)])
    data = run_suite(SUITE, msgspec.structs.replace(FAST, blocks=1, most=1), every, files, 1, rule=NEVER)
    assert [(failure.variant, failure.kind) for failure in data.failures] == [(f"ring/{name}", kind)]
    assert words in data.failures[0].detail
    assert {each.arm.label for each in data.taken} == {"ring/deque", "ring/deque#again", "floor/bare-list"}
    if name == "dying":
        assert "last words" in data.failures[0].detail


def test_what_a_dead_process_had_finished_counts_and_the_rest_is_named(files: dict[str, str]) -> None:
    def other(place: str) -> Job:
        return msgspec.structs.replace(JOB, params={"corpus": "tiny", "place": place})

    every = [blocks.Arm("ring/dying", "variant", entry("dying"), (JOB, other("b"), other("c")), "ring")]
    data = run_suite(SUITE, msgspec.structs.replace(FAST, blocks=1, most=1), every, files, 1, rule=NEVER)
    kinds = sorted(failure.kind for failure in data.failures)
    assert kinds == ["crashed", "not reached", "not reached"]


def test_a_process_that_hangs_is_killed(files: dict[str, str]) -> None:
    start = time.monotonic()
    answer = ask(Spec(entry("hanging"), [JOB], files), 1.0)
    assert "killed" in answer.problem
    assert answer.hung
    assert answer.lines[0].begun
    assert time.monotonic() - start < 20
    data = SuiteData(SUITE)
    arm = blocks.Arm("ring/hanging", "variant", entry("hanging"), (JOB,), "ring")
    blocks._keep(data, arm, [JOB], 0, answer)
    assert [failure.kind for failure in data.failures] == ["hung"]


def test_what_hung_is_not_waited_for_twice(files: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "GRACE", 1.0)
    every = blocks.arms([JOB], [registry.get("ring", "deque"), entry("hanging")])
    data = run_suite(SUITE, FAST, every, files, 3, rule=NEVER)
    assert [failure.kind for failure in data.failures] == ["hung"]
    hanging = next(arm.key for arm in every if arm.label == "ring/hanging")
    assert [hanging in block.order for block in data.blocks] == [True, False]
    assert data.notes == ["rings: ring/hanging hung in block 0 and was not run again"]


def test_a_void_measurement_is_nobodys_fault(files: dict[str, str]) -> None:
    late = Line(0, 1, measurement=Measurement({"cost": [1.0]}, invalid="the generator was late"))
    data = SuiteData(SUITE)
    arm = blocks.Arm("ring/good", "variant", entry("good"), (JOB,), "ring")
    blocks._keep(data, arm, [JOB], 0, blocks.Answer([late]))
    assert not data.taken
    assert [(each.kind, each.detail) for each in data.failures] == [("void", "the generator was late")]
    run = empty_run()
    run.failures = data.failures
    assert run.voids
    assert not run.faults


def test_a_noisy_block_is_voided_whole_and_measured_again(files: dict[str, str]) -> None:
    every = blocks.arms([JOB], [registry.get("ring", "deque")])

    class Once(Rule, frozen=True):
        def void(self, noise: Noise, cores: int) -> str:
            calls.append(noise)
            assert cores >= 1
            return "the neighbours" if len(calls) == 1 else ""

    calls: list[Noise] = []
    data = run_suite(
        SUITE, msgspec.structs.replace(FAST, most=9), every, files, 1, rule=Once(), settled=lambda _: True
    )
    assert [block.voided for block in data.blocks] == [True, False, False]
    assert data.blocks[0].reason == "the neighbours"
    tables, raw = summaries._tables(data)
    assert {line.voided for line in raw if line.block == 0} == {True}
    assert {line.voided for line in raw if line.block > 0} == {False}
    assert tables


def test_a_machine_that_is_never_quiet_ends_the_suite_in_time(files: dict[str, str]) -> None:
    every = blocks.arms([JOB], [registry.get("ring", "deque")])
    always = Rule(steal=-1.0, foreign=-1.0)
    many = msgspec.structs.replace(FAST, most=500)
    data = run_suite(SUITE, many, every, files, 1, seconds=0.5, rule=always)
    assert not data.complete
    assert all(block.voided for block in data.blocks)
    (note,) = summaries.shortage(data, blind=True)
    made = len(data.blocks)
    assert note.startswith(f"incomplete: rings has {made} block")
    assert f"{made} of them voided by the noise rule when its time was up, 2 are wanted" in note
    assert "nothing is compared" in note


def test_time_that_is_up_ends_a_suite_between_blocks_whatever_it_wants(files: dict[str, str]) -> None:
    every = blocks.arms([JOB], [registry.get("ring", "deque")])
    many = msgspec.structs.replace(FAST, blocks=500, most=500)
    data = run_suite(SUITE, many, every, files, 1, seconds=1e-6, rule=NEVER)
    assert len(data.blocks) == 1, "one block is whole even if it takes longer than there was"
    assert len({each.arm.key for each in data.taken}) == len(every)
    assert not data.complete
    (note,) = summaries.shortage(data, blind=False)
    assert note == "incomplete: rings has 1 block when its time was up, 500 are wanted"
    none = run_suite(SUITE, many, every, files, 1, seconds=0.0, rule=NEVER)
    assert not none.blocks
    assert summaries.shortage(none, blind=False) == ["incomplete: rings was not reached, time was up"]
    nothing_to_do = run_suite(SUITE, many, [], files, 1, seconds=0.0, rule=NEVER)
    assert nothing_to_do.complete


def test_arms_leave_out_what_does_not_apply() -> None:
    job = msgspec.structs.replace(JOB, workload="ring.handoff_processes")
    every = blocks.arms([JOB, job], registry.entries("ring"))
    able = {arm.label: {job.workload for job in arm.jobs} for arm in every}
    assert able["ring/shared-memory"] == {"ring.single", "ring.handoff_processes"}
    assert able["ring/deque"] == {"ring.single"}
    assert able["floor/bare-list"] == {"ring.single"}
    uncontrolled = blocks.arms([msgspec.structs.replace(JOB, controlled=False)], registry.entries("ring"))
    assert not any(arm.role == "control" for arm in uncontrolled)


@pytest.mark.parametrize("share", [0.0, 0.05, 1.0])
def test_planted_slowdowns_stretch_what_is_timed(monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    """On a clock of the test's own, which moves only when it is read or when work is done."""

    class Clock:
        now = 0

        def __call__(self) -> int:
            self.now += 100  # reading it takes time too, or nothing could wait for it
            return self.now

    class Work:
        def run(self, iterations: int) -> int:
            clock.now += iterations * 100_000
            return iterations

        def verify(self) -> None:
            raise AssertionError("sample() does not verify")

    clock = Clock()
    monkeypatch.setattr(worker, "perf_counter_ns", clock)
    rates = sample(Work(), Metric("rate", "1/s", "higher"), 0.6, 4, share)
    assert len(rates) == 4
    assert rates == pytest.approx([10_000 / (1 + share)] * 4, rel=1e-3)


def test_conformance_runs_in_a_process_of_its_own() -> None:
    answer = ask(Spec(registry.get("ring", "deque"), conform=True), 60)
    assert not answer.problem
    assert {line.check[1] for line in answer.lines if line.check} <= {"passed", "not applicable"}
    assert answer.lines


def test_the_ledger_reads_what_there_is_and_says_what_is_missing(tmp_path: Path) -> None:
    quiet = Ledger()
    found = quiet.close()
    assert found.load is None or found.load >= 0
    bare = Ledger(tmp_path).close()
    assert bare.steal is None
    assert bare.pressure is None
    assert "/proc/stat" in noise.missing(bare)
    assert noise.missing(Noise(steal=0, pressure=0, involuntary=0, load=0)) == ""


def test_the_ledger_counts_steal_and_pressure(tmp_path: Path) -> None:
    hertz = os.sysconf("SC_CLK_TCK")
    (tmp_path / "pressure").mkdir()

    def state(idle: int, steal: int, pressure: int) -> None:
        (tmp_path / "stat").write_text(f"cpu  0 0 0 {idle * hertz} 0 0 0 {steal * hertz} 0 0\ncpu0 …\n")
        (tmp_path / "pressure" / "cpu").write_text(
            f"some avg10=0.00 avg60=0.00 avg300=0.00 total={pressure}\n"
        )

    state(0, 0, 0)
    ledger = Ledger(tmp_path)
    state(9, 1, 10**9)
    found = ledger.close()
    assert found.steal == pytest.approx(0.1)
    assert found.pressure == 1.0
    assert Rule().void(found, 2).startswith("10.0% of CPU time was stolen")


@pytest.mark.parametrize(
    ("found", "void"),
    [
        (Noise(), False),
        (Noise(steal=0.04, foreign=0.3, pressure=1.0, involuntary=1e6, load=99.0), False),
        (Noise(steal=0.06), True),
        (Noise(foreign=0.5), True),
    ],
)
def test_the_rule_judges_steal_and_foreign_work_alone(found: Noise, void: bool) -> None:
    assert bool(Rule().void(found, 2)) is void


def test_settled_looks_at_widths_not_at_effects(files: dict[str, str]) -> None:
    every = blocks.arms([JOB], [registry.get("ring", "deque"), entry("good")])
    data = run_suite(SUITE, FAST, every, files, 3, rule=NEVER)
    for each in data.taken:  # exactly known: a factor of two, no scatter
        each.measurement.metrics["cost"] = [2.0 if each.arm.label == "ring/good" else 1.0] * 3
    assert summaries.settled(data, 0.01)
    data.taken[0].measurement.metrics["cost"] = [7.0] * 3
    assert not summaries.settled(data, 0.01)
    assert not summaries.settled(SuiteData(SUITE), 0.01)


def test_workers_stay_light() -> None:
    import subprocess
    import sys

    heavy = "('numpy', 'matplotlib', 'click', 'asyncio', 'zstandard')"
    code = f"import sys, portask_lab.worker; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_plans_name_workloads_and_suites_that_exist() -> None:
    for plan in workloads.plans():
        assert plan.suite in suites.SUITES
        workload = workloads.get(plan.workload)
        assert workload.metrics
        assert workload.family
