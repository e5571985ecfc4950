"""What a client may ask of groups: to be a member, to acknowledge and give back, to hear of them, to drop one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from portask.contracts import LATEST, Found, GroupPart
from portask.core import group_state
from portask.core.accounts import permit
from portask.core.coordinator import Saved
from portask.core.groups import Group, Member, Seat, Share
from portask.core.partitions import Partition, Subscription
from portask.core.positions import start_offset
from portask.core.session import Session
from portask.core.topics import check_filter, check_name, matcher
from portask.errors import InvalidTopic, NotPermitted, PortaskError, RemoteProtocolError, UnknownPartition
from portask.wire import control
from portask.wire.frames import HEADER_SIZE, REPLY, Frame, Opcode

if TYPE_CHECKING:
    from portask.core.broker import Broker

_DAY = 86_400_000  # ms
_REASON = 256  # characters of a NACK's reason that are kept


class Joining:
    """One SUBSCRIBE as a member: answered once every partition has its place, and new places are saved.

    Args:
        broker: Whose groups.
        subscription: Not yet its session's.
        body: Of the request.
        done: Gets the group's ``ack_wait`` in ms, or why the subscription is none.
    """

    def __init__(
        self,
        broker: Broker,
        subscription: Subscription,
        body: control.Subscribe,
        done: Callable[[int, PortaskError | None], None],
    ) -> None:
        self._broker = broker
        self._subscription = subscription
        self._session = subscription.session
        self._done = done
        self._body = body
        self._group = _enter(broker, body)
        self._waiting = 0

    def begin(self, wanted: Sequence[Partition]) -> None:
        """Joins at these partitions.

        Raises:
            PortaskError: the group cannot be had so; see `Coordinator.enter`.
        """
        group, subscription, body = self._group, self._subscription, self._body
        if not subscription.literal:
            wanted = [each for each in wanted if not group.settings.avoids(each.key.topic)]
        _check_dead_letters(self._broker, group, wanted)
        self._session.add(subscription)
        subscription.member = self._broker.groups.join(group, subscription, body.max_in_flight)
        self._waiting = len(wanted)
        if not wanted:
            self._done(self._group.settings.ack_wait // 1000, None)
        for partition in wanted:
            share = group.shares.get(partition)
            if share is None:
                start_offset(self._broker, partition, body.start, body.time, self._found(partition))
            elif share.verified:
                self._opened(partition, None)
            else:
                self._broker.storage.lookup(partition.key, LATEST, self._compare(share))

    @property
    def _over(self) -> bool:
        session = self._session
        return session.gone or session.subscriptions.get(self._subscription.channel) is not self._subscription

    def _found(self, partition: Partition) -> Found:
        """The group is new at the partition, and begins at the offset that is found."""

        def found(offset: int, error: PortaskError | None) -> None:
            if error is not None or self._over:
                self._opened(partition, error)
            else:
                self._broker.groups.open(
                    self._group, partition, offset, lambda failure: self._opened(partition, failure)
                )

        return found

    def _compare(self, share: Share) -> Found:
        """The group was restored, and must not be ahead of the log."""

        def found(end: int, error: PortaskError | None) -> None:
            if isinstance(error, UnknownPartition):
                end, error = 0, None
            if error is None:
                self._broker.groups.verify(share, end)
            self._opened(share.partition, error)

        return found

    def _opened(self, partition: Partition, error: PortaskError | None) -> None:
        self._waiting -= 1
        if self._over:
            return
        if error is not None:
            self._broker.forget(self._subscription)
            self._session.subscriptions.pop(self._subscription.channel, None)
            self._done(0, error)
            return
        _take_seat(self._broker, self._subscription, self._group.shares[partition])
        if not self._waiting:
            self._done(self._group.settings.ack_wait // 1000, None)


def assign(broker: Broker, member: Member, partitions: Sequence[Partition]) -> None:
    """A topic was created that a member waits for: the group reads it from its first record."""
    group = member.group
    subscription = member.subscription
    session = subscription.session

    def opened(partition: Partition) -> Saved:
        def done(error: PortaskError | None) -> None:
            if member not in group.members or session.gone:
                return
            if error is not None:
                session.refuse(error, 0)
            else:
                _take_seat(broker, subscription, group.shares[partition])
            broker.mark(session)

        return done

    for partition in partitions:
        if subscription.literal or not group.settings.avoids(partition.key.topic):
            broker.groups.open(group, partition, partition.next, opened(partition))


def _enter(broker: Broker, body: control.Subscribe) -> Group:
    try:
        check_name(body.group)
    except InvalidTopic as error:
        raise InvalidTopic(str(error).replace("topic name", "group name")) from None
    ack_wait, most = body.ack_wait, body.max_deliveries
    if ack_wait is not None and not 0 < ack_wait <= _DAY:
        raise RemoteProtocolError(f"ack_wait is {ack_wait} ms: it must be 1 to {_DAY:,}, a day")
    if (most is not None and most < 0) or body.max_in_flight < 0:
        raise RemoteProtocolError("max_deliveries and max_in_flight are not negative; 0 is for no limit")
    if body.dead_letter:
        check_name(body.dead_letter)
    return broker.groups.enter(
        body.group, None if ack_wait is None else ack_wait * 1000, most, body.dead_letter
    )


def _check_dead_letters(broker: Broker, group: Group, wanted: Sequence[Partition]) -> None:
    """Says now, and not when the first record has been given up, that dead letters cannot be stored."""
    if not group.settings.max_deliveries:
        return
    for topic in {partition.key.topic for partition in wanted}:
        name = group.settings.dead_letters_of(topic)
        check_name(name)
        if name not in broker.topics and not broker.options.auto_create:
            raise NotPermitted(
                f"dead letters of {topic} go to {name!r}, which is not there, and this broker does not create topics "
                "(topics.auto_create): create it, or name another as dead_letter"
            )


def _take_seat(broker: Broker, subscription: Subscription, share: Share) -> None:
    session = subscription.session
    member = subscription.member
    if member is None or any(seat.share is share for seat in member.seats):
        return
    seat = broker.groups.seat(member, share, session.new_delivery())
    session.follow(seat.delivery, seat)
    key = share.partition.key
    encoded = control.encode(control.Assigned(key.topic, key.partition, seat.delivery, share.next))
    session.answered += HEADER_SIZE + len(encoded)
    session.connection.send(Opcode.SUBSCRIBE, encoded, 0, subscription.channel, REPLY)


def ack(broker: Broker, seat: Seat, body: control.Ack) -> None:
    """ACK on a member's delivery channel."""
    share = seat.share
    _check(share, body.ranges)
    if body.extend:
        for first, last in body.ranges:
            share.extend(seat, first, last, broker.now)
        return
    for first, last in body.ranges:
        share.acknowledge(first, last)


def nack(broker: Broker, seat: Seat, body: control.Nack) -> None:
    """NACK on a member's delivery channel."""
    share = seat.share
    _check(share, body.ranges)
    if not 0 <= body.delay <= _DAY:
        raise RemoteProtocolError(f"delay is {body.delay} ms: it must be 0 to {_DAY:,}, a day")
    reason = f"refused: {body.reason[:_REASON]}" if body.reason else "refused"
    for first, last in body.ranges:
        share.give_back(
            seat, first, last, broker.now, delay=body.delay * 1000, counted=not body.returned, reason=reason
        )


def _check(share: Share, ranges: Sequence[tuple[int, int]]) -> None:
    for first, last in ranges:
        if not 0 <= first <= last < share.next:
            raise RemoteProtocolError(
                f"the offsets {first} to {last} of {share.partition.key} are none that were delivered: "
                f"the group {share.group.name!r} is at {share.next}"
            )


Groups = Callable[[list[control.GroupInfo], PortaskError | None], None]


def describe(broker: Broker, text: str, seen: Callable[[str], bool], done: Groups) -> None:
    """The groups whose names match the filter ``text``; none for an empty one.

    ``seen`` tells of the names of groups and topics which may be mentioned.
    """
    if not text:
        done([], None)
        return
    matches = matcher(check_filter(text))
    here = {name: group for name, group in broker.groups.groups.items() if matches(name) and seen(name)}
    shared = broker.groups.shared
    if shared is None:
        done([_info(here[name], _partitions(here[name], seen)) for name in sorted(here)], None)
        return

    def found(parts: Sequence[GroupPart], error: PortaskError | None) -> None:
        everywhere: dict[str, list[GroupPart]] = {name: [] for name in here}
        for part in parts:
            if matches(part.group) and seen(part.group) and broker.owns(part.partition):
                everywhere.setdefault(part.group, []).append(part)
        try:
            infos = [
                _info(
                    here.get(name) or _elsewhere(name, everywhere[name]),
                    _all_of(broker, everywhere[name], seen),
                )
                for name in sorted(everywhere)
            ]
        except PortaskError as unreadable:
            done([], unreadable)
        else:
            done(infos, error)

    broker.groups.settle(lambda: shared.group_parts(found))


def _elsewhere(name: str, parts: Sequence[GroupPart]) -> Group:
    """A group that has no member here."""
    return Group(name, group_state.decode_settings(parts[0].settings))


def _all_of(
    broker: Broker, parts: Sequence[GroupPart], seen: Callable[[str], bool]
) -> list[control.GroupPartitionInfo]:
    """Where a group stands, its members at other brokers included."""
    infos = []
    for part in sorted(parts, key=lambda part: part.partition):
        held = [grant for grant in part.held if grant.state is None]
        ranges = [(grant.first, grant.last) for grant in held]
        for grant in part.held:
            if grant.state is not None:
                ranges += [(first, last) for first, last, _ in group_state.decode(grant.state).ranges]
        key = part.partition
        if not seen(key.topic):
            continue
        topic = broker.topics.get(key.topic)
        known = topic.partitions[key.partition].next if topic and key.partition < len(topic.partitions) else 0
        end = max(known, part.next)
        pending = sum(last - first + 1 for first, last in ranges)
        committed = min((first for first, _ in ranges), default=part.next)
        _, redelivered, dead, skipped = part.counts
        infos.append(
            control.GroupPartitionInfo(
                key.topic,
                key.partition,
                committed,
                part.next,
                end,
                pending + end - part.next,
                pending,
                redelivered,
                dead,
                skipped,
            )
        )
    return infos


def _partitions(group: Group, seen: Callable[[str], bool]) -> list[control.GroupPartitionInfo]:
    shares = sorted(group.shares.values(), key=lambda share: share.partition.key)
    return [
        control.GroupPartitionInfo(
            share.partition.key.topic,
            share.partition.key.partition,
            share.committed,
            share.next,
            share.partition.next,
            share.lag,
            share.outstanding.records,
            share.redelivered,
            share.dead_lettered,
            share.skipped,
        )
        for share in shares
        if seen(share.partition.key.topic)
    ]


def _info(group: Group, partitions: list[control.GroupPartitionInfo]) -> control.GroupInfo:
    settings = group.settings
    members = [
        control.MemberInfo(
            member.subscription.session.peer,
            member.subscription.session.connection.client,
            member.in_flight,
        )
        for member in group.members
    ]
    return control.GroupInfo(
        group.name,
        settings.ack_wait // 1000,
        settings.max_deliveries,
        settings.dead_letter,
        members,
        partitions,
    )


def check_drop(session: Session, frame: Frame) -> str:
    """The group of a DROP_GROUP that the client may send.

    Raises:
        PortaskError: why not.
    """
    body = control.decode(frame.body, control.DropGroup)
    permit(session, "drop_group", body.group)
    return body.group


def answer_drop(broker: Broker, session: Session, frame: Frame) -> Saved:
    """What answers a DROP_GROUP once it is known what came of it."""

    def dropped(error: PortaskError | None) -> None:
        if session.gone or not frame.correlation:
            return
        if error is not None:
            session.refuse(error, frame.correlation, frame.channel)
        else:
            session.connection.send(Opcode.DROP_GROUP, b"", frame.correlation, frame.channel, REPLY)
        broker.mark(session)

    return dropped
