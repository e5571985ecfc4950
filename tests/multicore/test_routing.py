"""What a client sees of several workers: what it sees of one."""

from __future__ import annotations

import pytest

from portask.contracts import EARLIEST
from portask.messages import Message
from portask.multicore.owners import home_of, owner_of
from portask.wire import batches, control, windows
from portask.wire.frames import Opcode
from tests.core.talking import CODEC, LOTS
from tests.multicore.several import Several


def batch(*payloads: bytes) -> bytes:
    body = CODEC.encode([Message(each) for each in payloads], 0)
    return batches.build(body, len(payloads), codec=CODEC.wire_id, base_timestamp=0)


@pytest.fixture(params=[2, 4])
def several(request: pytest.FixtureRequest) -> Several:
    return Several(request.param)


def test_partitions_are_spread_evenly() -> None:
    assert sorted(owner_of("orders", number, 4) for number in range(8)) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_publishes_reach_subscribers_at_any_worker(several: Several) -> None:
    places = len(several.workers)
    readers = [several.client(place) for place in range(places)]
    for reader in readers:
        reader.subscribe("a.>")
    several.turn()
    for place in range(places):
        writer = several.client(place)
        for partition in range(4):
            writer.open("a.b", 1 + partition, partition, 4)
            writer.publish(batch(b"%d-%d" % (place, partition)), 1 + partition)
        several.turn()
        assert len(writer.acked()) == 4
    expected = sorted(b"%d-%d" % (place, number) for place in range(places) for number in range(4))
    for reader in readers:
        assert sorted(reader.payloads()) == expected
        assert len(reader.assigned()) == 4


def test_one_may_fetch_and_describe_from_anywhere(several: Several) -> None:
    places = len(several.workers)
    writer = several.client(0)
    for partition in range(4):
        writer.open("t", 1 + partition, partition, 4)
        writer.publish(batch(b"%d" % partition), 1 + partition)
    several.turn()
    for place in range(places):
        client = several.client(place)
        for partition in range(4):
            number = client.correlation()
            body = control.Fetch("t", partition, EARLIEST)
            client.connection.send_control(Opcode.FETCH, body, number)
        several.turn()
        assert sorted(client.payloads()) == [b"0", b"1", b"2", b"3"]
        client.connection.send_control(Opcode.DESCRIBE, control.Describe(), 7)
        several.turn()
        (answer,) = client.take(Opcode.DESCRIBE)
        described = control.decode(answer.body, control.Described)
        (topic,) = described.topics
        assert [(each.partition, each.next) for each in topic.partitions] == [(0, 1), (1, 1), (2, 1), (3, 1)]
        assert described.connections == place + 2


def test_replies_find_who_asked(several: Several) -> None:
    asking, answering = several.client(0), several.client(1)
    for number in range(4):
        name = f"_inbox.x{number}"
        asking.subscribe(name, 1 + number, start=-1)
        several.turn()
        body = bytes([len(name)]) + name.encode() + batch(b"yes")
        answering.connection.send(Opcode.SEND, body, answering.correlation())
        several.turn()
        assert asking.payloads() == [b"yes"]
        assert answering.take(Opcode.SEND)
        assert home_of(name, len(several.workers)) in range(len(several.workers))


def test_an_inbox_takes_replies_as_soon_as_it_is_there(several: Several) -> None:
    places = len(several.workers)
    name = next(name for name in map("_inbox.{}".format, range(1000)) if home_of(name, places) == 1)
    asking, answering = several.client(0), several.client(1)
    asking.subscribe(name, 1, start=-1)
    several.workers[0].take_turn()
    several.workers[1].take_turn()  # has it; who asked for it does not know yet
    body = bytes([len(name)]) + name.encode() + batch(b"yes")
    answering.connection.send(Opcode.SEND, body, answering.correlation())
    several.workers[1].take_turn()
    assert answering.take(Opcode.SEND)
    several.settle()
    assert [frame.opcode for frame in asking.arrived] == [Opcode.SUBSCRIBE, Opcode.SUBSCRIBE, Opcode.DELIVER]
    assert asking.payloads() == [b"yes"]


def test_what_a_member_gives_back_as_it_leaves_is_new_to_the_next(several: Several) -> None:
    places = len(several.workers)
    topic = next(name for name in map("t{}".format, range(1000)) if owner_of(name, 0, places) == 0)
    first, second = several.client(0), several.client(0)
    first.open(topic)
    first.publish(batch(*[b"x"] * 10))
    body = control.Subscribe(topic, EARLIEST, messages=LOTS, bytes=LOTS, group="g", max_in_flight=100)
    first.connection.send_control(Opcode.SUBSCRIBE, body, first.correlation(), 2)
    several.turn()
    assert first.take(Opcode.DELIVER)
    (assigned,) = first.assigned()
    first.connection.send_control(
        Opcode.NACK, control.Nack([(5, 9)], returned=True), channel=assigned.delivery
    )
    first.connection.send(Opcode.UNSUBSCRIBE, b"", first.correlation(), 2)
    several.turn()
    assert [frame.opcode for frame in first.arrived] == [Opcode.PUBACK, Opcode.UNSUBSCRIBE]
    second.connection.send_control(Opcode.SUBSCRIBE, body, second.correlation(), 2)
    several.turn()
    got = [windows.split(memoryview(frame.body))[0] for frame in second.take(Opcode.DELIVER)]
    assert [(window.first, window.last, window.deliveries) for window in got] == [(0, 4, 2), (5, 9, 1)]


def test_a_client_that_leaves_leaves_nothing(several: Several) -> None:
    client = several.client(0)
    client.subscribe(">", messages=10, size=LOTS)
    client.open("a", 1, 0, 4)
    several.turn()
    assert any(link.proxies for worker in several.workers for link in worker.broker.links.values())
    client.hang_up()
    several.turn()
    for worker in several.workers:
        assert not worker.broker.homes.clients
        assert not any(link.proxies for link in worker.broker.links.values())
        for topic in worker.broker.topics.values():
            assert not any(partition.cursors for partition in topic.partitions)


def test_a_small_credit_reads_everything_and_never_more(several: Several) -> None:
    reader, writer = several.client(0), several.client(1)
    for partition in range(4):
        writer.open("t", 1 + partition, partition, 4)
    reader.subscribe("t", messages=1, size=LOTS)
    several.turn()
    for number in range(8):
        writer.publish(batch(b"%d" % number), 1 + number % 4)
        several.turn()
    seen: list[bytes] = []
    for number in range(8):
        seen += reader.payloads()
        assert len(seen) <= number + 2, (
            "stored together, two records may be one batch, and a batch is never cut"
        )
        reader.credit(1, 0)
        several.turn()
    seen += reader.payloads()
    assert sorted(seen) == [b"%d" % number for number in range(8)]


@pytest.mark.parametrize("home", range(4))
def test_one_offset_that_is_not_there_takes_the_whole_subscription_back(home: int) -> None:
    several = Several(4)
    writer, reader = several.client(0), several.client(home)
    for partition in range(4):
        writer.open("t", 1 + partition, partition, 4)
    for partition in (0, 1, 3):
        writer.publish(batch(b"0", b"1"), 1 + partition)
    reader.subscribe("t", start=1)
    several.turn()
    ((_, error),) = reader.errors()
    assert (error.code, error.first, error.next) == ("offset-out-of-range", 0, 0)
    for worker in several.workers:
        for topic in worker.broker.topics.values():
            assert not any(partition.cursors for partition in topic.partitions)
    reader.subscribe("t", start=0)
    several.turn()
    assert len(reader.payloads()) == 6
    assert not reader.errors()


def test_a_group_at_one_partition_has_all_its_credit_where_it_is() -> None:
    several = Several(4)
    writer, reader = several.client(0), several.client(1)
    writer.open("t")
    body = control.Subscribe("t", EARLIEST, messages=4, bytes=LOTS, group="g", max_in_flight=3)
    reader.connection.send_control(Opcode.SUBSCRIBE, body, 5, 1)
    several.turn()
    place = several.workers[0].broker.owner(several.workers[0].broker.topics["t"].partitions[0].key)
    (session,) = [session for session in several.workers[place].broker.readers() if session.subscriptions]
    (subscription,) = session.subscriptions.values()
    assert (subscription.messages, subscription.member.limit) == (4, 3)  # type: ignore[union-attr]


def test_who_comes_as_another_leaves_is_not_taken_for_it(several: Several) -> None:
    """Both go to the same worker, which hears of both in one turn."""
    first, second = several.client(0), several.client(0)
    partition = next(each for each in range(4) if owner_of("t", each, len(several.workers)) != 0)
    first.open("t", 1, partition, 4)
    several.turn()
    first.hang_up()
    second.connection.send_control(Opcode.OPEN, control.Open("t", partition, 4), 9, 1)
    several.turn()
    assert second.take(Opcode.OPEN)
    second.publish(batch(b"x"), 1)
    several.turn()
    assert len(second.acked()) == 1
