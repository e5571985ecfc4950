"""Members share the work: every record is done once somebody says so, and until then somebody has it or will."""

from __future__ import annotations

from portask.contracts import LATEST
from portask.core import dead_letters
from portask.core.broker import Broker, Options
from portask.messages import RecordBatch
from portask.reference.storage import MemoryStorage
from portask.server.dead_letters import rewrite
from portask.wire import batches, control
from portask.wire.frames import Opcode
from tests.core.sharing import MS, Sharing, read_all
from tests.core.talking import SECOND, batch_of


def test_members_share_and_nobody_gets_what_another_has() -> None:
    desk = Sharing()
    members = [desk.member() for _ in range(3)]
    desk.publish(3000, 100)
    got = [member.offsets() for member in members]
    assert sorted(offset for each in got for offset in each) == list(range(3000))
    assert all(len(each) > 500 for each in got)


def test_a_single_batch_is_shared_too() -> None:
    desk = Sharing()
    members = [desk.member() for _ in range(3)]
    desk.publish(90)
    assert [len(member.offsets()) for member in members] == [30, 30, 30]


def test_single_messages_take_turns() -> None:
    desk = Sharing()
    members = [desk.member() for _ in range(3)]
    for _ in range(9):
        desk.publish(1)
    assert [len(member.offsets()) for member in members] == [3, 3, 3]


def test_credit_is_never_exceeded_and_slow_members_get_less() -> None:
    desk = Sharing()
    slow, fast = desk.member(messages=10), desk.member()
    desk.publish(5000, 5000)
    assert len(slow.offsets()) == 10
    assert len(fast.offsets()) == 4990
    assert desk.info().lag == 5000


def test_in_flight_is_bounded_whatever_the_credit() -> None:
    desk = Sharing()
    member = desk.member(max_in_flight=10)
    desk.publish(100)
    assert member.offsets() == list(range(10))
    member.ack((0, 3))
    assert member.offsets() == list(range(10, 14))
    member.nack((4, 4), returned=True)
    assert member.offsets() == [4]


def test_acknowledged_is_done_in_any_order_and_any_number_of_times() -> None:
    desk = Sharing()
    member = desk.member()
    desk.publish(100)
    assert len(member.offsets()) == 100
    member.ack((50, 59), (10, 19))
    member.ack((55, 70), (0, 4), (0, 4))
    share = desk.share()
    assert share.committed == 5
    assert share.lag == share.outstanding.records == 100 - 10 - 21 - 5
    member.ack((0, 99))
    assert (share.committed, share.lag, share.acknowledged) == (100, 0, 100)
    desk.settle(60 * SECOND)
    assert member.take() == []


def test_no_ack_in_time_gives_it_to_another() -> None:
    desk = Sharing()
    hangs = desk.member(ack_wait=500)
    desk.publish(10)
    assert hangs.offsets() == list(range(10))
    works = desk.member()
    assert works.ack_wait == 500
    desk.settle(400 * MS)
    assert works.take() == []
    assert desk.broker.deadline() is not None
    desk.settle(200 * MS)
    again = works.take() + hangs.take()
    assert sorted(offset for got in again for offset in got.messages) == list(range(10))
    assert {got.deliveries for got in again} == {2}
    assert desk.info().partitions[0].redelivered == 10


def test_the_deadline_is_when_something_is_due() -> None:
    desk = Sharing()
    member = desk.member(ack_wait=50)
    desk.publish(1)
    sent = desk.now
    member.take()
    due = desk.broker.deadline()
    assert due is not None
    assert due <= sent + 50 * MS
    desk.settle(51 * MS)
    assert [got.deliveries for got in member.take()] == [2]


def test_a_late_ack_counts_whoever_has_it_now() -> None:
    desk = Sharing()
    late, other = desk.member(ack_wait=100), desk.member(messages=0)
    desk.publish(10)
    assert len(late.offsets()) == 10
    desk.settle(101 * MS)
    late.take()
    other.credit(1000)
    late.ack((0, 9))
    assert desk.share().lag == 0
    desk.settle(1000 * MS)
    assert late.take() + other.take() == []


def test_who_says_that_it_works_gets_more_time() -> None:
    desk = Sharing()
    member = desk.member(ack_wait=100, max_in_flight=10)
    desk.publish(10)
    assert len(member.offsets()) == 10
    for _ in range(10):
        desk.settle(60 * MS)
        member.extend((0, 4))
    assert set(member.offsets()) == {5, 6, 7, 8, 9}  # those were not extended, and came again, and again
    assert desk.share().committed == 0
    member.ack((0, 9))
    assert desk.share().lag == 0


def test_a_refused_record_comes_again_after_its_delay() -> None:
    desk = Sharing()
    member = desk.member()
    desk.publish(10)
    member.take()
    member.nack((3, 4), delay=250)
    desk.settle(200 * MS)
    assert member.take() == []
    desk.settle(60 * MS)
    (got,) = member.take()
    assert (got.first, got.last, got.deliveries) == (3, 4, 2)
    member.nack((3, 3))
    (got,) = member.take()
    assert (got.first, got.last, got.deliveries) == (3, 3, 3)


def test_only_who_has_a_record_can_refuse_or_extend_it() -> None:
    desk = Sharing()
    one, other = desk.member(ack_wait=100, max_in_flight=5), desk.member(max_in_flight=5)
    desk.publish(10)
    mine, its = one.offsets(), other.offsets()
    assert (len(mine), len(its)) == (5, 5)
    one.nack((its[0], its[-1]))
    one.extend((its[0], its[-1]))
    assert one.take() + other.take() == []
    one.ack((its[0], its[-1]))  # but whoever says that it is done is believed
    assert desk.share().lag == 5


def test_what_a_member_had_goes_to_others_when_it_leaves() -> None:
    desk = Sharing()
    leaves = desk.member()
    desk.publish(100)
    assert len(leaves.offsets()) == 100
    stays = desk.member()
    leaves.ack((0, 9), (20, 29))
    leaves.unsubscribe()
    assert sorted(stays.offsets()) == [*range(10, 20), *range(30, 100)]
    crashes = desk.member()
    desk.publish(10)
    had = crashes.offsets()
    assert had
    stays.take()
    crashes.hang_up()
    assert stays.offsets() == had


def test_the_group_is_there_when_nobody_is() -> None:
    desk = Sharing()
    desk.publish(10)
    first = desk.member(start=LATEST)
    first.hang_up()
    desk.publish(10)
    info = desk.info()
    assert (info.members, info.lag, info.partitions[0].committed) == ([], 10, 10)
    assert desk.member(start=LATEST).offsets() == list(range(10, 20))


def test_groups_do_not_see_each_other_and_plain_subscribers_see_everything() -> None:
    desk = Sharing()
    one, other = desk.member("one"), desk.member("other")
    reader = desk.client()
    reader.subscribe("jobs")
    desk.publish(50, 10)
    assert sorted(one.offsets()) == sorted(other.offsets()) == list(range(50))
    assert len(reader.payloads()) == 50


def test_given_up_records_are_dead_letters_with_the_reason() -> None:
    desk = Sharing()
    member = desk.member(max_deliveries=2)
    desk.publish(10)
    member.take()
    member.nack((3, 4), reason="no such customer")
    member.nack((3, 4), reason="no such customer")
    dead = read_all(desk, "jobs.dead")
    assert [message.payload for message in dead] == [b"3", b"4"]
    assert dead[0].headers == {
        "portask-dead-reason": "refused: no such customer",
        "portask-dead-group": "g",
        "portask-dead-topic": "jobs",
        "portask-dead-partition": "0",
        "portask-dead-offset": "3",
        "portask-dead-deliveries": "2",
    }
    member.ack((0, 2), (5, 9))
    info = desk.info()
    assert (info.lag, info.partitions[0].dead_lettered) == (0, 2)


def test_the_dead_letter_topic_may_be_named_and_is_not_consumed_by_its_own_group() -> None:
    desk = Sharing()
    member = desk.member(filter=">", max_deliveries=1, dead_letter="lost.jobs")
    desk.publish(2)
    member.take()
    member.nack((0, 1))
    assert [message.payload for message in read_all(desk, "lost.jobs")] == [b"0", b"1"]
    assert member.take() == []
    assert {topic for topic, _ in member.channels} == {"jobs"}
    literal = desk.member("other", filter="lost.jobs")
    assert len(literal.offsets()) == 2


def test_unseen_records_that_are_given_back_do_not_count() -> None:
    desk = Sharing()
    member = desk.member(max_deliveries=1)
    desk.publish(3)
    for _ in range(5):
        (got,) = member.take()
        assert got.deliveries == 1
        member.nack((0, 2), returned=True)
    assert "jobs.dead" not in desk.broker.topics


def test_settings_are_the_groups() -> None:
    desk = Sharing()
    desk.member(ack_wait=1000, max_deliveries=3)
    assert desk.member().error is None
    assert desk.member(ack_wait=1000, max_deliveries=3).error is None
    refused = desk.member(ack_wait=2000)
    assert refused.error is not None
    assert "ack_wait=1000" in refused.error.message
    assert refused.client.hung_up is False
    for options in ({"group": "no name"}, {"ack_wait": 0}, {"max_deliveries": -1}, {"dead_letter": "a..b"}):
        assert desk.member(**options).error is not None
    assert set(desk.broker.groups.groups) == {"g"}


def test_dead_letters_that_have_no_topic_are_said_at_the_start() -> None:
    desk = Sharing()
    desk.broker.options = Options(auto_create=False)
    error = desk.member(max_deliveries=3).error
    assert error is not None
    assert "jobs.dead" in error.message


def test_several_partitions_share_credit() -> None:
    desk = Sharing(partitions=3)
    for number in (1, 2):
        desk.publisher.open("jobs", 1 + number, number)
    members = [desk.member(max_in_flight=4) for _ in range(2)]
    assert all(len(member.channels) == 3 for member in members)
    desk.publish(20)
    assert [len(member.offsets()) for member in members] == [4, 4]


def test_topics_that_come_later_are_read_from_their_first_record() -> None:
    desk = Sharing()
    member = desk.member(filter="*", start=LATEST)
    desk.publisher.open("more", 2)
    desk.publisher.publish(batch_of(b"x", b"y"), 2)
    desk.settle()
    (got,) = member.take()
    assert got.delivery == member.channels["more", 0]
    assert [message.payload for message in got.messages.values()] == [b"x", b"y"]


def test_records_that_expire_are_passed_over() -> None:
    desk = Sharing()
    desk.publish(5, ttl=100)
    desk.publish(5)
    desk.publish(5, ttl=100)
    desk.settle(200 * MS)
    member = desk.member()
    assert member.offsets() == [5, 6, 7, 8, 9]
    member.ack((5, 9))
    info = desk.info()
    assert (info.lag, info.partitions[0].skipped) == (0, 10)


def test_records_that_retention_took_are_passed_over() -> None:
    desk = Sharing()
    member = desk.member(max_in_flight=150)
    desk.publish(1000, 100)
    assert len(member.offsets()) == 150
    desk.storage.trim(desk.share().partition.key, before=500)
    member.nack((0, 149))
    assert member.offsets() == list(range(500, 650))
    member.ack((500, 649))
    while got := member.offsets():
        member.ack((got[0], got[-1]))
    share = desk.share()
    assert (share.lag, share.skipped, share.acknowledged) == (0, 500, 500)


def test_the_partitions_of_all_groups_are_bounded_and_a_dropped_group_makes_room() -> None:
    storage = MemoryStorage()
    desk = Sharing(Options(max_group_partitions=5), storage, partitions=2)
    members = [desk.member(group) for group in ("a", "b", "c")]
    refused = members[2].error
    assert refused is not None
    assert [members[0].error, members[1].error, refused.code] == [None, None, "not-permitted"]
    assert "limits.max_group_partitions" in refused.message
    again = desk.member("a")
    assert again.error is None, "what is there already is nothing new"
    for member in (*members, again):
        member.client.hang_up()
    desk.settle()
    restarted = Sharing(Options(max_group_partitions=5), storage, partitions=2)
    assert restarted.broker.groups.share_count == 5
    assert restarted.member("d").error is not None
    restarted.publisher.connection.send_control(Opcode.DROP_GROUP, control.DropGroup("a"), 77, 0)
    restarted.settle()
    assert restarted.member("d").error is None


def test_a_dropped_group_is_new_again() -> None:
    desk = Sharing()
    member = desk.member()
    desk.publish(10)
    member.ack((0, 9))

    def drop(name: str) -> list[str]:
        client = desk.client()
        client.connection.send_control(Opcode.DROP_GROUP, control.DropGroup(name), client.correlation())
        desk.settle()
        return [code for _, code in client.codes()]

    assert drop("g") == ["not-permitted"]
    assert drop("other") == ["unknown-group"]
    member.hang_up()
    assert drop("g") == []
    assert desk.member().offsets() == list(range(10))


def test_what_was_never_delivered_cannot_be_acknowledged() -> None:
    desk = Sharing()
    member = desk.member()
    desk.publish(10)
    member.ack((5, 10))
    assert member.client.hung_up


def test_a_draining_broker_delivers_no_more() -> None:
    desk = Sharing()
    member = desk.member(max_in_flight=5)
    desk.publish(10)
    assert len(member.offsets()) == 5
    desk.broker.drain(desk.now)
    member.ack((0, 4))
    assert member.take() == []


def test_a_log_that_lost_its_end_gives_its_offsets_to_records_that_nobody_saw() -> None:
    before = Sharing()
    member = before.member()
    before.publish(100)
    member.take()
    member.ack((0, 49), (60, 99))
    before.settle(SECOND)
    after = MemoryStorage()  # as after a power loss: the group's state was kept, the end of the log was not
    for group, partition, state in before.storage.load_groups():  # type: ignore[attr-defined]
        after.save_group(group, partition, state, lambda error: None)
        after.append(partition, batch_of(*(b"%d" % number for number in range(55))), 1, lambda *_: None)
    desk = Sharing(storage=after)
    desk.publish(10)  # at offsets that were acknowledged, when they were other records'
    member = desk.member()
    assert member.offsets() == list(range(50, 65))
    assert desk.info().lag == 15


def test_a_state_that_cannot_be_read_loses_no_record() -> None:
    storage = MemoryStorage()
    desk = Sharing(storage=storage)
    desk.publish(10)
    storage.save_group("g", desk.broker.topics["jobs"].partitions[0].key, b"?", lambda error: None)
    again = Sharing(storage=storage)
    assert again.member(start=LATEST).offsets() == list(range(10))


def test_a_group_is_saved_where_it_begins_before_anything_is_delivered() -> None:
    storage = MemoryStorage()
    desk = Sharing(storage=storage)
    desk.publish(10)
    desk.member(start=LATEST)
    desk.publish(5)
    after = Sharing(storage=storage)  # the first broker was killed
    assert after.member(start=LATEST).offsets() == list(range(10, 15))


def test_topics_and_their_partitions_are_found_again() -> None:
    storage = MemoryStorage()
    desk = Sharing(storage=storage, partitions=3)
    desk.publish(1)
    desk.member()
    again = Sharing(storage=storage)
    assert len(again.broker.topics["jobs"].partitions) == 3  # two of them by the group that waits there
    assert again.broker.topics["jobs"].partitions[0].next == 1


def test_dead_letters_that_cannot_be_stored_are_tried_again() -> None:
    storage = MemoryStorage(max_bytes=3000)
    desk = Sharing(storage=storage)
    member = desk.member(max_deliveries=1, ack_wait=100)
    desk.publish(1)
    while desk.share().partition.next == desk.published:
        desk.publish(1, ttl=100_000 + desk.published)  # no two are gathered
    desk.publisher.errors()
    full = desk.share().partition.next
    member.take()
    member.nack((0, full - 1))
    assert desk.share().dead_lettered < full
    assert desk.share().lag > 0
    storage._max_bytes = 1 << 30
    desk.settle(2 * SECOND)
    assert desk.share().dead_lettered == full
    assert desk.share().lag == 0
    assert len(read_all(desk, "jobs.dead")) == full


def test_thousands_of_ranges_are_saved_in_bounds() -> None:
    storage = MemoryStorage()
    desk = Sharing(storage=storage)
    member = desk.member()
    desk.publish(20_000, 500)
    member.take()
    for start in range(0, 20_000, 1000):
        member.ack(*[(offset, offset) for offset in range(start, start + 1000, 2)])
    desk.settle(SECOND)
    assert len(desk.share().outstanding) == 10_000
    ((_, _, state),) = storage.load_groups()
    assert len(state) < 64 * 1024
    again = Sharing(storage=storage)
    got = set(again.member().offsets())
    assert {offset for offset in range(20_000) if offset % 2} <= got


def test_a_member_that_takes_only_small_frames_gives_way_to_one_that_takes_large_ones() -> None:
    desk = Sharing()
    small = desk.member(max_frame=8192)
    desk.publisher.publish(batch_of(b"x" * 20_000))
    desk.settle()
    assert small.client.hung_up
    assert len(desk.member().offsets()) == 1


def test_a_batch_as_large_as_a_frame_may_be_has_room_for_its_window() -> None:
    desk = Sharing(Options(max_frame=65_536))
    member = desk.member(max_frame=65_536)
    overhead = len(batch_of(b"x" * 60_000).data) - 60_000
    desk.publisher.publish(batch_of(b"x" * (65_536 - overhead)))
    desk.settle()
    assert desk.share().partition.next == 1
    assert member.offsets() == [0]


def test_a_batch_is_opened_once_for_all_its_dead_letters_and_a_turn_makes_some_of_them() -> None:
    opened = []

    def counting(batch: RecordBatch) -> dead_letters.Letter:
        opened.append(batch.count)
        return rewrite(batch)

    desk = Sharing()
    desk.broker = Broker(desk.storage, None, counting)
    desk.publisher = desk.client()
    desk.publisher.open("jobs")
    member = desk.member(max_deliveries=1)
    desk.publish(3000)
    member.take()
    scattered = [(number, number) for number in range(0, 3000, 2)]
    member.say(Opcode.NACK, control.Nack(scattered))
    desk.turn()
    desk.turn(0)
    some = desk.broker.topics["jobs.dead"].partitions[0].next
    assert 0 < some < len(scattered)
    desk.settle()
    assert [message.payload for message in read_all(desk, "jobs.dead")] == [
        b"%d" % first for first, _ in scattered
    ]
    assert len(opened) < 10


def test_a_batch_that_holds_too_much_is_a_dead_letter_as_it_is() -> None:
    desk = Sharing()
    member = desk.member(max_deliveries=1)
    desk.publisher.publish(batch_of(*[b""] * 40_000))
    desk.settle()
    member.take()
    member.nack((0, 3), (5, 5), (39_000, 39_999))
    (dead,) = read_all(desk, "jobs.dead")
    assert dead.headers is not None
    assert dead.headers["portask-dead-offsets"] == "0-3,5-5,39000-39999"
    assert desk.info().partitions[0].dead_lettered == 1005
    assert batches.parse(dead.payload).count == 40_000
    assert dead.headers["portask-dead-form"] == "batch"
    assert "40,000 records" in str(dead.headers["portask-dead-form-reason"])
    assert (dead.headers["portask-dead-offset"], dead.headers["portask-dead-last-offset"]) == ("0", "39999")
    member.nack((4, 4), (6, 38_999))
    assert desk.info().partitions[0].dead_lettered == 40_000
