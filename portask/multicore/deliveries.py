"""Deliveries at an owner: as anywhere, and it notices who has something to read and no credit for it."""

from __future__ import annotations

from collections.abc import Callable

from portask.core.delivery import Delivery
from portask.core.group_delivery import GroupDelivery
from portask.core.groups import Share
from portask.core.partitions import Cursor, Partition, Subscription


def _nobody(_: Subscription) -> None: ...


class WatchedDelivery(Delivery):
    """Attributes: ``starving`` is called for a subscription that has credit elsewhere and needs it here."""

    starving: Callable[[Subscription], None] = staticmethod(_nobody)

    def fresh(self, partition: Partition, now: int) -> None:
        """See `Delivery.fresh`."""
        super().fresh(partition, now)
        for cursor in partition.cursors:
            self._look(cursor)

    def catch_up(self, now: int) -> None:
        """See `Delivery.catch_up`."""
        waiting = list(self.behind)
        super().catch_up(now)
        for cursor in waiting:
            self._look(cursor)

    def _look(self, cursor: Cursor) -> None:
        subscription = cursor.subscription
        if cursor.offset < cursor.partition.next and not cursor.reading and is_short(subscription):
            self.starving(subscription)


class WatchedGroupDelivery(GroupDelivery):
    """Likewise, for members of groups."""

    starving: Callable[[Subscription], None] = staticmethod(_nobody)

    def fresh(self, partition: Partition, now: int) -> None:
        """See `GroupDelivery.fresh`."""
        super().fresh(partition, now)
        for share in partition.shares:
            self._look(share)

    def catch_up(self, now: int) -> None:
        """See `GroupDelivery.catch_up`."""
        waiting = list(self.behind)
        super().catch_up(now)
        for share in waiting:
            self._look(share)

    def _look(self, share: Share) -> None:
        if share.pending and not share.reading:
            for seat in list(share.seats):
                if is_short(seat.member.subscription):
                    self.starving(seat.member.subscription)


def is_short(subscription: Subscription) -> bool:
    """Whether it lacks credit of any kind."""
    member = subscription.member
    return (
        subscription.messages <= 0
        or subscription.bytes <= 0
        or (member is not None and member.limit <= member.in_flight)
    )


def has_work(subscription: Subscription) -> bool:
    """Whether there is something to deliver to it here."""
    if subscription.member is not None:
        return any(seat.share.pending for seat in subscription.member.seats)
    return any(cursor.offset < cursor.partition.next for cursor in subscription.cursors)


def is_reading(subscription: Subscription) -> bool:
    """Whether the storage is about to bring something for it."""
    if subscription.member is not None:
        return any(seat.share.reading for seat in subscription.member.seats)
    return any(cursor.reading for cursor in subscription.cursors)
