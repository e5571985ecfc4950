"""Where a subscription begins, and which partitions belong to it."""

from __future__ import annotations

import pytest

from portask.contracts import COALESCE_WINDOW_US, EARLIEST, LATEST
from portask.core.broker import Options
from portask.core.partitions import Cursor
from portask.wire import control
from portask.wire.frames import Opcode
from tests.core.talking import SECOND, START, Client, Desk, batch_of


def filled(options: Options | None = None) -> tuple[Desk, Client]:
    """Topic ``a`` with ten records, published 2 s apart, so that each is a batch of its own."""
    desk = Desk(options)
    publisher = desk.client()
    publisher.open("a")
    for number in range(10):
        publisher.publish(batch_of(b"%d" % number))
        desk.turn(2 * SECOND)
    publisher.acks()
    return desk, publisher


@pytest.mark.parametrize(("start", "first"), [(EARLIEST, 0), (0, 0), (4, 4), (9, 9), (10, 10), (LATEST, 10)])
def test_from_earliest_latest_or_an_offset(start: int, first: int) -> None:
    desk, publisher = filled()
    reader = desk.client()
    reader.subscribe("a", start=start)
    desk.settle()
    publisher.publish(batch_of(b"10"))
    desk.settle()
    (assigned,) = reader.assigned()
    assert (assigned.topic, assigned.partition, assigned.offset) == ("a", 0, first)
    assert [offset for offset, _ in reader.delivered()] == list(range(first, 11))


def test_the_end_of_the_list_carries_the_requests_correlation() -> None:
    desk, _ = filled()
    reader = desk.client()
    number = reader.subscribe("a")
    nothing = reader.subscribe("elsewhere.>", channel=2)
    desk.turn()
    frames = reader.take(Opcode.SUBSCRIBE)
    assert [frame.correlation for frame in frames] == [0, number, nothing]
    assert [control.decode(frame.body, control.Assigned).topic for frame in frames] == ["a", "", ""]


@pytest.mark.parametrize("start", [11, 1 << 60])
def test_an_offset_beyond_the_end_names_what_there_is(start: int) -> None:
    desk, _ = filled()
    reader = desk.client()
    number = reader.subscribe("a", start=start)
    desk.settle()
    ((answered, error),) = reader.errors()
    assert (answered, error.code, error.first, error.next) == (number, "offset-out-of-range", 0, 10)
    assert not reader.session.subscriptions
    assert not any(partition.cursors for partition in desk.broker.topics["a"].partitions)
    reader.subscribe("a")
    desk.settle()
    assert len(reader.delivered()) == 10, "the channel is free again"


@pytest.mark.parametrize("behind", [-5, 0, 1, 2 * SECOND, 7 * SECOND, 1000 * SECOND])
def test_from_a_time_never_late_and_hardly_early(behind: int) -> None:
    desk, _ = filled()
    times = [START + 2000 + number * 2 * SECOND for number in range(1, 11)]
    when = times[4] + behind
    reader = desk.client()
    reader.subscribe("a", time=when)
    desk.settle()
    due = [number for number, time in enumerate(times) if time >= when]
    got = [offset for offset, _ in reader.delivered()]
    assert got[len(got) - len(due) :] == due
    assert all(when - times[offset] <= COALESCE_WINDOW_US for offset in got)


def test_a_time_before_all_records_is_the_earliest() -> None:
    desk, _ = filled()
    reader = desk.client()
    for channel, time in enumerate([-1, -2, 0, 1], 1):  # -1 and -2 are no times that lookups know as such
        reader.subscribe("a", channel, time=time)
    desk.settle()
    assert [body.offset for body in reader.assigned()] == [0, 0, 0, 0]


def test_resuming_goes_on_where_it_was_and_starts_where_nothing_is_known() -> None:
    desk, _ = filled(Options(default_partitions=3))
    reader = desk.client()
    reader.subscribe("a", start=EARLIEST, resume={"a": [4, -1], "other": [7]})
    desk.settle()
    assert [body.offset for body in reader.assigned()] == [4, 0, 0]
    desk.storage.trim(desk.broker.topics["a"].partitions[0].key, before=6)
    reader.subscribe("a", 2, resume={"a": [4]})
    reader.subscribe("a", 3, resume={"a": [11]})
    desk.settle()
    firsts = [body.offset for body in reader.assigned() if body.partition == 0]
    assert firsts == [6, 6], "what is no longer there, or never was, becomes the oldest that is"


def test_wildcards_see_topics_that_are_created_later_from_their_first_record() -> None:
    desk = Desk()
    publisher, reader = desk.client(), desk.client()
    reader.subscribe("orders.*", start=LATEST)
    desk.settle()
    publisher.open("orders.eu", 1)
    publisher.open("orders.eu.old", 2)
    publisher.open("orders.us", 3)
    for channel in (1, 2, 3, 1):
        publisher.publish(batch_of(b"%d" % channel), channel)
    desk.settle()
    topics = {body.delivery: body.topic for body in reader.assigned()}
    assert sorted(topics.values()) == ["orders.eu", "orders.us"]
    assert all(number >= control.DELIVERY_CHANNELS for number in topics)
    assert sorted(reader.payloads()) == [b"1", b"1", b"3"]


def test_a_topic_created_in_the_same_turn_is_not_missed() -> None:
    desk = Desk()
    reader, publisher = desk.client(), desk.client()
    reader.subscribe("later")
    publisher.connection.send_control(Opcode.OPEN, control.Open("later"), 1, 1)
    publisher.publish(batch_of(b"first"))
    desk.settle()
    assert reader.payloads() == [b"first"]


def test_publishes_and_a_subscription_in_one_turn_give_each_record_once() -> None:
    desk = Desk()
    client = desk.client()
    client.open("a")
    client.publish(batch_of(b"0"))
    client.subscribe("a")
    client.publish(batch_of(b"1"))
    client.subscribe("a", 2, start=LATEST)
    desk.settle()
    first, second = (body.delivery for body in client.assigned())
    by_channel: dict[int, list[int]] = {first: [], second: []}
    for frame in [frame for frame in client.arrived if frame.opcode == Opcode.DELIVER]:
        client.arrived = [frame]
        by_channel[frame.channel] += [offset for offset, _ in client.delivered()]
    assert by_channel == {first: [0, 1], second: []}


def test_one_partition_of_several() -> None:
    desk = Desk(Options(default_partitions=3))
    client = desk.client()
    for number in range(3):
        client.open("a", 1 + number, partition=number)
        client.publish(batch_of(b"%d" % number), 1 + number)
    client.subscribe("a", partition=1)
    desk.settle()
    assert client.payloads() == [b"1"]


def test_partitions_that_cannot_be() -> None:
    desk = Desk(Options(default_partitions=3))
    client = desk.client()
    client.open("a")
    number = client.subscribe("a", partition=-2)
    desk.settle()
    assert client.codes() == [(number, "remote-protocol")]
    assert not client.assigned()


@pytest.mark.parametrize("partitions", [-1, -100, 1025, 1 << 40])
def test_topics_have_a_sensible_number_of_partitions(partitions: int) -> None:
    desk = Desk()
    client = desk.client()
    client.connection.send_control(Opcode.OPEN, control.Open("a", 0, partitions), 5, 1)
    desk.turn()
    assert client.codes() == [(5, "not-permitted")]
    assert not desk.broker.topics


def test_settings_say_how_many_partitions_a_topic_gets() -> None:
    desk = Desk(Options(default_partitions=2, partitions={"named": 5}))
    client = desk.client()
    for channel, (topic, asked, got) in enumerate(
        [("a", 0, 2), ("b", 3, 3), ("named", 0, 5), ("a", 7, 2)], 1
    ):
        client.connection.send_control(Opcode.OPEN, control.Open(topic, 0, asked), 5, channel)
        desk.turn()
        (frame,) = client.take(Opcode.OPEN)
        assert control.decode(frame.body, control.Open).partitions == got


def test_unsubscribing_ends_deliveries_and_frees_the_channel() -> None:
    desk, publisher = filled()
    reader = desk.client()
    reader.subscribe("a", start=LATEST)
    desk.settle()
    reader.connection.send(Opcode.UNSUBSCRIBE, b"", 77, 1)
    publisher.publish(batch_of(b"unseen"))
    desk.settle()
    assert [frame.correlation for frame in reader.take(Opcode.UNSUBSCRIBE)] == [77]
    publisher.publish(batch_of(b"unseen too"))
    desk.settle()
    assert not reader.delivered()
    assert not reader.session.cursors
    assert not desk.broker.topics["a"].partitions[0].cursors
    reader.credit(5)  # crossed the UNSUBSCRIBE on the way: no error
    reader.subscribe("a", start=11)
    desk.settle()
    assert reader.payloads() == [b"unseen too"]
    assert not reader.errors()


def test_a_connection_that_is_gone_leaves_nothing_behind() -> None:
    desk, publisher = filled()
    reader = desk.client()
    reader.subscribe("a", messages=1)
    reader.subscribe(">", 2)
    desk.turn()
    reader.hang_up()
    reader.hang_up()
    publisher.publish(batch_of(b"x"))
    desk.settle()
    assert not desk.broker.topics["a"].partitions[0].cursors
    assert not desk.broker.delivery.behind
    assert list(desk.broker.sessions) == [publisher.session]


def test_acks_move_forward_only_and_not_beyond_what_was_delivered() -> None:
    desk, _ = filled()
    reader = desk.client()
    reader.subscribe("a", messages=5)
    desk.settle()
    (body,) = reader.assigned()
    cursor = reader.session.cursors[body.delivery]
    assert isinstance(cursor, Cursor)
    for ranges, acked in [([(0, 2)], 2), ([(4, 4), (1, 1)], 4), ([(0, 0)], 4), ([], 4)]:
        reader.connection.send_control(Opcode.ACK, control.Ack(ranges), 0, body.delivery)
        desk.turn()
        assert cursor.acked == acked
    reader.connection.send_control(Opcode.ACK, control.Ack([(0, 5)]), 0, body.delivery)
    desk.turn()
    assert reader.hung_up


@pytest.mark.parametrize("channel", [0, 1, control.DELIVERY_CHANNELS, control.DELIVERY_CHANNELS + 5])
def test_channels_that_a_client_may_not_choose(channel: int) -> None:
    desk, publisher = filled()
    reader = desk.client()
    reader.subscribe("a", channel=1)
    desk.settle()
    number = reader.subscribe("a", channel=channel)
    desk.settle()
    assert reader.codes() == [(number, "remote-protocol")]
    publisher.connection.send_control(Opcode.OPEN, control.Open("b"), 7, channel)
    desk.settle()
    assert publisher.codes() == [(7, "remote-protocol")]
    publisher.publish(batch_of(b"x"))
    desk.settle()
    assert publisher.acked() == [10], "the channel is what it was"


def test_describe_counts() -> None:
    desk, publisher = filled(Options(default_partitions=2))
    publisher.open("b.c", 2)
    reader = desk.client()
    reader.subscribe("a")
    reader.connection.send_control(Opcode.DESCRIBE, control.Describe(), 8)
    reader.connection.send_control(Opcode.DESCRIBE, control.Describe("*"), 9)
    reader.connection.send_control(Opcode.DESCRIBE, control.Describe("a.>.b"), 10)
    desk.settle()
    whole, one = (control.decode(frame.body, control.Described) for frame in reader.take(Opcode.DESCRIBE))
    assert [topic.topic for topic in whole.topics] == ["a", "b.c"]
    assert [topic.topic for topic in one.topics] == ["a"]
    first = whole.topics[0].partitions[0]
    assert (first.first, first.next, first.subscribers) == (0, 10, 1)
    assert first.bytes > 0
    assert (whole.connections, whole.durability) == (2, "memory")
    assert reader.codes() == [(10, "invalid-topic")]


def test_a_nack_of_a_plain_subscription_says_what_to_do() -> None:
    desk, _ = filled()
    reader = desk.client()
    reader.subscribe("a")
    desk.settle()
    (body,) = reader.assigned()
    reader.connection.send_control(Opcode.NACK, control.Nack([(0, 0)]), 12, body.delivery)
    desk.settle()
    ((number, error),) = reader.errors()
    assert (number, error.code) == (12, "not-permitted")
    assert "subscribe again" in error.message
