"""Workloads:

every planned job runs on every variant that claims it, does the work it is asked for, and catches a cheat.
"""

from collections.abc import Callable
from typing import Any

import pytest

from portask import registry
from portask.registry import Entry
from portask_lab import blocks, suites, workloads
from portask_lab.corpora import EMPTY, Corpus
from portask_lab.corpora.load import load
from portask_lab.plan import Plan
from portask_lab.suites import FULL, QUICK, SUITES, Job, Suite
from portask_lab.workloads import NotForThis, WrongResult
from portask_lab.workloads.compression import PHASES, UnderLoad
from portask_lab.workloads.ring import handoff, hop
from tests.lab.variants import entry as odd

LIBRARIES = {"codec", "ring", "pool", "compression", "workers", "storage"}
"""Modules whose jobs are short and stay in this process."""
SMALL = {"messages": 2_000}


def jobs() -> list[Job]:
    found = [job for suite in SUITES.values() for job in suites.jobs(suite, QUICK, ["flights"])]
    return [job for job in found if job.workload.partition(".")[0] in LIBRARIES | {"allocation"}]


def cases() -> list[Any]:
    made = []
    for job in jobs():
        workload = workloads.get(job.workload)
        needed = {workload.applies, job.applies} - {""}
        rows = [entry for entry in registry.entries(workload.family) if needed <= entry.capabilities]
        made += [
            pytest.param(job, entry, id=f"{entry.name}-{job.workload}-{list(job.params.values())}")
            for entry in (*rows, *(stick.entry for stick in workload.yardsticks))
        ]
    return made


CORPORA: dict[str, Corpus] = {}


def corpus_of(job: Job) -> Corpus:
    name = str(job.params.get("corpus") or "")
    if name and name not in CORPORA:
        CORPORA[name] = load(name, 300)
    return CORPORA.get(name, EMPTY)


@pytest.mark.parametrize(("job", "entry"), cases())
def test_every_job_works_on_every_variant(job: Job, entry: Entry) -> None:
    reason = entry.unavailable()
    if reason:
        pytest.skip(reason)
    params = {**job.params, **({"messages": 2_000} if "messages" in job.params else {})}
    workload = workloads.get(job.workload)
    try:
        work = workload.prepare(entry, corpus_of(job), params, 1)
    except NotForThis as reason:
        pytest.skip(str(reason))
    try:
        declared = {metric.name for metric in workload.metrics}
        if hasattr(work, "measure"):
            found = work.measure(0.02)
            work.verify()
            assert not found.invalid
            assert found.metrics
            assert set(found.metrics) <= declared
            assert all(value == value for values in found.metrics.values() for value in values)  # noqa: PLR0124 - no NaN
            return
        work.verify()
        for iterations in (1, 3):
            if hasattr(work, "before"):
                work.before(iterations)
            assert work.run(iterations) >= iterations
        if hasattr(work, "before"):
            work.before(6)
        assert work.run(6) > 0
        work.verify()
        extras = work.extras() if hasattr(work, "extras") else {}
        assert set(extras) <= declared - {workload.metrics[0].name}
    finally:
        if hasattr(work, "close"):
            work.close()


def test_a_ring_that_loses_records_is_caught() -> None:
    single = workloads.get("ring.single").prepare(odd("lossy"), load("tiny", 200), {}, 1)
    with pytest.raises(WrongResult):
        single.verify()


def test_a_codec_that_alters_is_caught() -> None:
    encode = workloads.get("codec.encode").prepare(
        registry.get("codec", "cbor2"), load("tiny", 200), {"batch": 100}, 1
    )
    encode.bodies[0], encode.bodies[1] = encode.bodies[1], encode.bodies[0]
    with pytest.raises(WrongResult):
        encode.verify()


class Meddling:
    """A ring with something done to the records that are put, one after the other, whatever the call."""

    def __init__(self, ring: Any, meddle: Callable[[int, bytes], bytes | None]) -> None:
        self.ring, self.meddle = ring, meddle
        self.count = 0
        self.get, self.get_many, self.close = ring.get, ring.get_many, ring.close

    def __len__(self) -> int:
        return len(self.ring)

    def put(self, record: bytes) -> None:
        changed = self.meddle(self.count, record)
        if changed is not None:
            self.ring.put(changed)
        self.count += 1

    def put_many(self, records: list[bytes]) -> int:
        for record in records:
            self.put(record)
        return len(records)


MEDDLERS: dict[str, tuple[Callable[[int, bytes], bytes | None], str]] = {
    "loses one": (lambda number, record: None if number == 77 else record, "arrived"),
    "alters one": (
        lambda number, record: record[:-1] + b"?" if number == 77 else record,
        "1 of them altered",
    ),
}


@pytest.mark.parametrize("batch", [1, 64])
@pytest.mark.parametrize("how", MEDDLERS)
def test_a_handoff_that_goes_wrong_is_caught(how: str, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    params: workloads.Params = {"between": "threads", "batch": batch}
    work = workloads.get("ring.handoff").prepare(registry.get("ring", "deque"), load("tiny", 200), params, 1)
    meddle, complaint = MEDDLERS[how]
    work.ring = Meddling(work.ring, meddle)
    monkeypatch.setattr(handoff, "PATIENCE", 0.3)
    work.measure(0.001)
    with pytest.raises(WrongResult, match=complaint):
        work.verify()


@pytest.mark.parametrize(
    ("lost", "complaint"), [(7, "7 was expected and 8 came"), (19, "19 arrived, then none")]
)
def test_a_hop_that_loses_a_record_is_caught(
    lost: int, complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = {"between": "threads", "waits": "sleeping"}
    work = workloads.get("ring.hop").prepare(registry.get("ring", "deque"), EMPTY, params, 1)
    work.ring = Meddling(work.ring, lambda number, record: None if number == lost else record)
    monkeypatch.setattr(hop, "PATIENCE", 0.3)
    work.measure(0.001)
    with pytest.raises(WrongResult, match=complaint):
        work.verify()


@pytest.mark.parametrize("waits", ["spinning", "sleeping"])
@pytest.mark.parametrize("entry", registry.entries("ring"), ids=lambda entry: entry.name)
def test_a_hop_takes_its_time(entry: Entry, waits: str) -> None:
    """Whatever the ring and however it waits, a record needs longer than the two looks at the clock."""
    reason = entry.unavailable()
    if reason:
        pytest.skip(reason)
    between = "processes" if "processes" in entry.capabilities else "threads"
    if (between, waits) == ("threads", "spinning"):
        pytest.skip("spinning in Python would hold the interpreter that the producer needs")
    work = workloads.get("ring.hop").prepare(entry, EMPTY, {"between": between, "waits": waits}, 1)
    try:
        found = work.measure(0.01).metrics
        work.verify()
    finally:
        work.close()
    assert 0 < found["p50"][0] <= found["p99"][0]


def test_the_load_trace_goes_through_all_phases() -> None:
    work = UnderLoad(registry.get("compression", "adaptive"), load("flights", 300), {"batch": 100}, 1)
    trace = work.measure(0).trace
    assert trace is not None
    assert list(dict.fromkeys(trace.phase)) == [name for name, *_ in PHASES]
    lengths = {
        len(values) for values in (trace.time, trace.load, trace.level, trace.raw, trace.packed, trace.cpu)
    }
    assert lengths == {sum(steps for *_, steps in PHASES)}
    assert max(trace.load) == 1.0
    assert all(0 < packed <= raw + 64 for raw, packed in zip(trace.raw, trace.packed, strict=True))


def test_dictionaries_are_trained_on_messages_that_are_not_measured() -> None:
    corpus = load("flights", 300)
    work = workloads.get("compression.pack").prepare(
        registry.get("compression", "dictionary"), corpus, {"batch": 10}, 1
    )
    trained = b"".join(corpus.payloads[:150])
    measured = {payload for payload in corpus.payloads[150:] if payload not in trained}
    joined = b"".join(work.areas)
    assert all(payload in joined for payload in measured)
    assert not any(payload in joined for payload in set(corpus.payloads[:150]) - set(corpus.payloads[150:]))


def test_ratios_count_batches_that_were_left_alone() -> None:
    work = workloads.get("compression.pack").prepare(
        registry.get("compression", "never"), load("tiny", 100), {"batch": 10}, 1
    )
    assert work.extras() == {"ratio": 1.0, "compressed": 0.0}


@pytest.mark.parametrize("profile", [QUICK, FULL])
def test_jobs_are_unique_and_complete(profile: suites.Profile) -> None:
    for suite in SUITES.values():
        found = suites.jobs(suite, profile, ["mine.csv"])
        keys = [(job.workload, repr(job.params)) for job in found]
        assert len(keys) == len(set(keys)), suite.name
        assert not {"flights", "weather", "webhooks", "real", "main"} & {
            str(job.params.get("corpus")) for job in found
        }


@pytest.mark.parametrize("suite", SUITES.values(), ids=list(SUITES))
def test_the_full_profile_has_time_for_the_blocks_that_it_wants(suite: Suite) -> None:
    plan = Plan(FULL.name, [suite.name], None, variants=None, criteria=None, seed=1)
    arms = blocks.arms(plan.jobs[suite.name], plan.available())
    block = sum(job.seconds for arm in arms for job in arm.jobs)
    assert suite.blocks(FULL) * block <= 0.9 * suite.budget(FULL), "starting processes takes time, too"
