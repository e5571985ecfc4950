"""Peers: what is there can be driven, what is not says what would bring it; and their clients are proven like ours."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from portask.measuring import schedule
from portask.registry import Entry
from portask_lab.corpora import EMPTY
from portask_lab.loadgen import broker, clients
from portask_lab.loadgen.processes import Child
from portask_lab.peers import PEERS, Deliver, Product, binary
from portask_lab.peers.portask import Portask
from portask_lab.workloads import Workload, WrongResult, network, plans, workloads
from portask_lab.workloads.network.subjects import delivered

ENTRIES = {stick.entry.name: stick.entry for stick in PEERS}


def product(name: str) -> Product:
    if name == "portask":
        return Portask("epoll")
    reason = ENTRIES[name].unavailable()
    if reason:
        pytest.skip(reason)
    made: Product = ENTRIES[name].make()
    return made


@pytest.mark.parametrize("name", ["portask", *ENTRIES])
def test_every_message_arrives_through_every_product(name: str) -> None:
    subject = product(name)
    with subject.start() as child:
        found = clients.run(clients.open_loop(subject, child.port, schedule.constant(300, 0.2), 64, 1))
        assert (found.sent, found.received, len(found.latencies)) == (60, 60, 48)
        assert min(found.latencies) > 0
        assert child.cpu() > 0


@pytest.mark.parametrize("name", ["portask", *ENTRIES])
def test_a_closed_loop_counts_what_arrived(name: str) -> None:
    subject = product(name)
    with subject.start() as child:
        found = clients.run(clients.closed_loop(subject, child.port, 0.2, 100, 1, 20_000))
    assert found.received >= subject.batch
    assert found.rate > 0


class Wire:
    """A product that needs no server; ``spoil`` may change what arrives."""

    batch = 10
    note = ""

    def start(self) -> Child:
        return broker.start("epoll")

    async def connect(self, port: int, deliver: Deliver) -> None:
        self.deliver = deliver
        self.count = 0

    def spoil(self, number: int, payload: bytes) -> Sequence[bytes]:
        return (payload,)

    async def send(self, payloads: Sequence[bytes]) -> None:
        loop = asyncio.get_running_loop()
        for payload in payloads:
            for arriving in self.spoil(self.count, payload):
                loop.call_soon(self.deliver, (arriving,))
            self.count += 1

    async def close(self) -> None:
        pass


class Losing(Wire):
    def spoil(self, number: int, payload: bytes) -> Sequence[bytes]:
        return () if number == 20 else (payload,)


class LosingTheLast(Wire):
    def spoil(self, number: int, payload: bytes) -> Sequence[bytes]:
        return () if number == 60 else (payload,)


class Repeating(Wire):
    def spoil(self, number: int, payload: bytes) -> Sequence[bytes]:
        return (payload, payload) if number == 20 else (payload,)


class Altering(Wire):
    def spoil(self, number: int, payload: bytes) -> Sequence[bytes]:
        return (payload[:-1] + b"?",) if number == 20 else (payload,)


class Deaf(Wire):
    def spoil(self, number: int, payload: bytes) -> Sequence[bytes]:
        return ()


def test_an_honest_wire_passes() -> None:
    for _ in range(5):  # where the machine has too much to do the generator is late, and the run void
        found = clients.run(clients.open_loop(Wire(), 0, schedule.constant(300, 0.2), 64, 1))
        if not found.invalid:
            break
    assert (found.received, found.invalid) == (60, "")


@pytest.mark.parametrize("bad", [Losing, LosingTheLast, Repeating, Altering, Deaf])
def test_what_is_wrong_is_shouted_about(bad: type[Wire], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "DRAIN_SECONDS", 0.2)
    with pytest.raises(WrongResult):
        clients.run(clients.open_loop(bad(), 0, schedule.constant(300, 0.2), 64, 1))


@pytest.mark.parametrize("bad", [Losing, Repeating, Altering])
def test_a_closed_loop_shouts_too(bad: type[Wire], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "DRAIN_SECONDS", 0.2)
    with pytest.raises(WrongResult):
        clients.run(clients.closed_loop(bad(), 0, 0.3, 64, 1, 100))


def test_a_program_that_is_not_there_is_not_found() -> None:
    assert binary("no-such-distribution", "no-such-program") is None


def test_a_missing_library_says_the_pip_line() -> None:
    entry = Entry("server", "x", "portask_lab.peers.nats:Nats", "", needs=("no_such_module=no-such-package",))
    assert entry.unavailable() == "needs no-such-package: pip install no-such-package"


# ── the workloads' declarations ───────────────────────────────────────────────────────────────────────────────────


def mine() -> list[Workload]:
    return [workload for workload in workloads() if workload.name.startswith("network.")]


@pytest.mark.parametrize("workload", mine(), ids=lambda workload: workload.name)
def test_every_network_workload_can_be_prepared(workload: Workload) -> None:
    planned = [plan for plan in plans() if plan.workload == workload.name]
    assert planned
    entry = Entry("server", "epoll", "portask_variants.servers.epoll:EpollServer", "")
    for plan in planned:
        for params in (*plan.quick, *(plan.full or ())):
            made: Any = workload.prepare(entry, EMPTY, params, 1)
            assert callable(made.measure)
            made.verify()


@pytest.mark.parametrize(
    "name", ["network.latency", "network.throughput", "network.cpu", "network.connections"]
)
def test_a_short_measurement_has_the_declared_metrics(name: str) -> None:
    workload = next(each for each in mine() if each.name == name)
    params: dict[str, dict[str, Any]] = {
        "network.latency": {"rate": 500, "size": 64, "schedule": "poisson"},
        "network.throughput": {"size": 100, "batch": 10, "publishers": 1, "subscribers": 1},
        "network.cpu": {"rate": 5000, "size": 100, "batch": 50},
        "network.connections": {"connections": 40, "hold": 0, "processes": 1},
    }
    entry = Entry("server", "epoll", "portask_variants.servers.epoll:EpollServer", "")
    work = workload.prepare(entry, None, params[name], 1)  # type: ignore[arg-type] # none of them has a corpus
    found = work.measure(0.8 if name == "network.cpu" else 0.3)
    assert set(found.metrics) == {metric.name for metric in workload.metrics}
    assert all(len(values) == 1 for values in found.metrics.values())
    if name == "network.connections":
        assert (found.metrics["alive"], found.metrics["failed"]) == ([40.0], [0.0])


def test_nothing_else_is_there() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        _ = network.Nonsense


def test_delivered_batches_in_words() -> None:
    assert delivered({50: 10}) == "50 each"
    assert delivered({1: 5, 2: 1, 9: 1}) == "1 to 9, median 1"
    assert delivered({}) == "unknown"
