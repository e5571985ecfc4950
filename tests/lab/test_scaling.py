"""Loads of many producers and processes, crowds that reconnect, fairness, and a subscriber that stops: all small."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import pytest
from click.testing import CliRunner

from portask import registry
from portask.errors import PortaskError
from portask.measuring import schedule
from portask.sync import connect
from portask_lab import stall, suites, workloads
from portask_lab.corpora import EMPTY
from portask_lab.loadgen import broker, crew, flood, openloop
from portask_lab.loadgen.consumer import TimedConsumer
from portask_lab.loadgen.crowd import Crowd
from portask_lab.loadgen.links import Publisher
from portask_lab.loadgen.messages import Batches
from portask_lab.loadgen.processes import Child, thread_busy
from portask_lab.loadgen.staller import Report, Staller
from portask_lab.loadgen.team import Team
from portask_lab.suites import FULL, SUITES
from portask_lab.workloads import WrongResult
from portask_lab.workloads.network import fairness, scaling

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="the load generator reads /proc and uses epoll"
)


@pytest.fixture(scope="module")
def served() -> Iterator[Child]:
    with broker.start("epoll", limits=broker.FLOW) as child:
        yield child


# ── loads ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("spin", [False, True])
def test_many_producers_take_turns_and_every_message_is_accounted_for(
    served: Child, shared: bool, spin: bool
) -> None:
    """Each with a connection of its own, or each with a topic of its own on one connection."""
    name = f"turns{shared}{spin}"
    sources = [Batches(64, 5, publisher=place, channel=place + 1 if shared else 1) for place in range(7)]
    if shared:
        names = [f"{name}.{place}" for place in range(7)]
        publishers = [Publisher(served.port, names)] * 7
    else:
        publishers = [Publisher(served.port, name) for _ in range(7)]
    times = schedule.constant(1000, 0.2)
    consumer = TimedConsumer(served.port, f"{name}.*" if shared else name, 5, 64, len(times), publishers=7)
    try:
        found = openloop.run(list(zip(publishers, sources, strict=True)), consumer, times, spin=spin)
    finally:
        consumer.close()
        for publisher in publishers:
            publisher.close()
    assert (found.sent, found.received) == (1000, 1000)
    assert min(consumer.latency) > 0
    assert sum(each.acked for each in dict.fromkeys(publishers)) == 200


def test_a_producer_out_of_turn_is_shouted_about(served: Child) -> None:
    sources = [Batches(64, publisher=place) for place in (0, 0)]
    publishers = [Publisher(served.port, "out") for _ in sources]
    consumer = TimedConsumer(served.port, "out", 1, 64, 10, publishers=2)
    try:
        with pytest.raises(WrongResult, match="was due"):
            openloop.run(list(zip(publishers, sources, strict=True)), consumer, schedule.constant(100, 0.1))
    finally:
        consumer.close()
        for publisher in publishers:
            publisher.close()


def test_a_crew_shares_the_topics_and_counts_all(served: Child) -> None:
    calls: list[int] = []
    loads = [crew.Load(served.port, [f"crew.{n}", f"crew.{n + 10}"], 64, 10, 20, 0.3) for n in range(2)]
    found = crew.run(loads, lambda: calls.append(thread_busy()))
    assert len(calls) == 2
    assert 0 < found.rate * 0.2 < found.received
    assert 0 < found.busy <= 1.1


def test_a_crew_that_cannot_begin_says_why(served: Child) -> None:
    with pytest.raises(PortaskError, match="topic"):
        crew.run([crew.Load(served.port, ["not a topic!"], 64, 10, 20, 0.1)])


@pytest.mark.parametrize(
    ("generator", "served_by", "void"), [(0.99, 0.5, True), (0.99, 0.97, False), (0.6, 0.5, False)]
)
def test_a_generator_that_was_the_limit_makes_the_run_void(
    generator: float, served_by: float, void: bool
) -> None:
    assert bool(crew.limit(generator, served_by)) is void


def test_a_process_of_a_team_that_ends_is_an_error() -> None:
    with Team("string", [()]) as team, pytest.raises(PortaskError, match="ended with status"):
        team.hear(Report)


def test_a_crowd_comes_back_after_a_storm(served: Child) -> None:
    with Crowd(served.port, 2) as crowd:
        assert crowd.grow(50).alive == 50
        storm = crowd.storm()
        assert (storm.alive, storm.failed) == (50, 0)
        crowd.begin_storms(0.2)
        storms = crowd.end_storms()
        assert storms.alive >= 100
        assert storms.alive % 25 == 0
        assert crowd.round_trip().alive == 50


@pytest.mark.parametrize("batch", [1, 100])
def test_a_flood_says_how_much_was_acknowledged(served: Child, batch: int) -> None:
    with connect(f"portask://127.0.0.1:{served.port}") as client:

        def stored() -> int:
            return sum(topic.partitions[0].next for topic in client.topics(flood.TOPIC))

        before = stored()
        with flood.Flood(served.port, 100, batch) as loud:
            time.sleep(0.5)
            found = loud.stop()
        unheard = stored() - before - found.messages
    assert found.seconds > 0
    assert 0 <= unheard <= 2 * batch * flood.window(100, batch), found


# ── workloads ─────────────────────────────────────────────────────────────────────────────────────────────────────

EPOLL = registry.get("server", "epoll")


@pytest.mark.parametrize("kind", [scaling.ScalingRate, scaling.ScalingLatency])
@pytest.mark.parametrize(
    "params",
    [{"connections": 30}, {"topics": 5}, {"subscribers": 3}, {"size": 4_000}, {"workers": 2}],
    ids=str,
)
def test_each_axis_of_scaling_is_measured(kind: type[scaling.ScalingRate], params: dict[str, int]) -> None:
    found = kind(EPOLL, EMPTY, params, 1).measure(0.3)
    declared = {m.name for m in workloads.get("network.scaling").metrics}
    declared |= {m.name for m in workloads.get("network.scaling_latency").metrics}
    assert found.metrics
    assert set(found.metrics) <= declared
    assert all(value > 0 for values in found.metrics.values() for value in values)


@pytest.mark.parametrize("beside", [fairness.LOUD, fairness.STORM])
def test_fairness_compares_the_same_load_with_itself(beside: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fairness, "_CROWD", 40)
    found = fairness.Fairness(EPOLL, EMPTY, {"beside": beside, "quiet": 20}, 1).measure(0.6)
    ((ratio,), (after,), (before,), (load,)) = (
        found.metrics[name] for name in ("ratio", "p99", "alone", "load")
    )
    assert ratio == pytest.approx(after / before)
    assert load > 0


def test_ten_producers_linger_ten_times_as_long() -> None:
    params: workloads.Params = {"rate": 2_000, "size": 100, "batch": 4, "producers": 10}
    found = workloads.get("network.cpu").prepare(EPOLL, EMPTY, params, 1).measure(0.8)
    assert "10 producers, batches of 4, from each one every 20 ms" in found.notes[0]


def test_connections_over_workers_are_all_alive_and_survive_a_storm() -> None:
    params: workloads.Params = {"connections": 200, "hold": 0, "processes": 2, "workers": 2}
    work = workloads.get("network.connections").prepare(EPOLL, EMPTY, params, 1)
    found = work.measure(1)
    work.verify()
    assert found.metrics["alive"] == [200]
    assert found.metrics["failed"] == [0]
    assert found.metrics["storm"][0] > 0
    assert "2 broker processes" in found.notes[0]


def test_the_full_profile_asks_for_more_connections_than_the_criterion() -> None:
    (job,) = [job for job in suites.jobs(SUITES["connections"], FULL, []) if job.params.get("workers")]
    assert int(job.params["connections"] or 0) > 100_000
    assert int(job.params["workers"] or 0) >= 6
    assert int(job.params["processes"] or 0) >= 6
    assert job.seconds >= 2 * int(job.params["hold"] or 0), "it would be killed before it ends"


# ── a subscriber that stops ───────────────────────────────────────────────────────────────────────────────────────


def drilled(kept: int, watermark: int = 64 << 20, stalled: float = 1.5) -> stall.Findings:
    return stall.drill(rate=20_000, calm=1.0, stall=stalled, kept=kept, watermark=watermark)


def test_one_that_stops_gets_all_that_retention_kept() -> None:
    found = drilled(64 << 20)
    assert (found.slow.received, found.slow.skipped, found.slow.error) == (found.published, 0, "")
    assert not [fault for fault in found.faults() if "p99" not in fault], (
        "time is nothing that a test asserts"
    )


def test_one_that_stops_is_told_what_retention_overtook() -> None:
    found = drilled(1 << 20, stalled=6.0)
    assert found.slow.skipped > 0
    assert found.slow.received + found.slow.skipped == found.published == found.slow.next


def test_broken_promises_are_named() -> None:
    found = stall.Findings(
        server="epoll",
        rate=1,
        calm=1,
        stall=1,
        published=10,
        kept=1,
        watermark=100,
        growth=101,
        before=10.0,
        during=51.0,
        slow=Report(next=10, received=7, skipped=2),
    )
    memory, p99, lost = found.faults()
    assert "watermark" in memory
    assert "p99" in p99
    assert lost.startswith("1 messages are missing")


def test_it_reads_up_to_an_offset_and_says_what_it_saw(served: Child) -> None:
    with Staller(served.port, "gap", 64, 1) as staller:
        publisher = Publisher(served.port, "gap")
        source = Batches(64)
        for number in range(3):
            publisher.send(source.frame(number, 0))
        staller.go_on(3)
        found = staller.done()
        publisher.close()
    assert (found.received, found.error) == (3, "")


def test_the_command_says_what_came_out() -> None:
    from portask_lab.cli import lab

    done = CliRunner().invoke(lab, ["stall", "--seconds", "1", "--calm", "1", "--rate", "5000", "--json"])
    assert done.exit_code in {0, 1, 2}, done.output
    assert '"published": 15000' in done.output
