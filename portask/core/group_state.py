"""What a storage keeps of a group, per partition: one small CBOR map.

It is enough to go on with: where the group stands, what below that is not acknowledged and how often it was delivered,
and what the members agreed on. It is bounded: of more than `MOST_RANGES` ranges neighbours are written as one, so that
records between them that are acknowledged already may be delivered again after a restart. Never the other way round.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from portask.core.groups import Settings, Share
from portask.errors import RemoteProtocolError, StorageError
from portask.wire import control

VERSION = 1
MOST_RANGES = 4096
_LIMIT = 1 << 20


class State(msgspec.Struct):
    """The map.

    Attributes:
        version: `VERSION`.
        next: See `Share.next`.
        ranges: ``(first, last, deliveries)`` of what is outstanding, in order.
        settings: Of the group.
        counts: Acknowledged, redelivered, dead-lettered, skipped.
    """

    version: int
    next: int
    ranges: list[tuple[int, int, int]]
    settings: Settings
    counts: tuple[int, int, int, int]


def encode(share: Share) -> bytes:
    """The state of a share."""
    ranges = [(each.first, each.last, each.deliveries) for each in share.outstanding]
    counts = (share.acknowledged, share.redelivered, share.dead_lettered, share.skipped)
    return control.encode(State(VERSION, share.next, bounded(ranges), share.group.settings, counts))


def decode(data: bytes) -> State:
    """The state in ``data``.

    Raises:
        StorageError: it is none that is known here.
    """
    try:
        found = control.decode(data, State, _LIMIT)
    except RemoteProtocolError as error:
        raise StorageError(f"the state of a group is not understood: {error}") from error
    if found.version != VERSION or not _orderly(found):
        raise StorageError(
            f"the state of a group makes no sense, or is of a newer portask: version {found.version}"
        )
    return found


def encode_settings(settings: Settings) -> bytes:
    """What the members of a group agree on."""
    return control.encode(settings)


def decode_settings(data: bytes) -> Settings:
    """Back from `encode_settings`.

    Raises:
        StorageError: they are none that are known here.
    """
    try:
        found = control.decode(data, Settings, _LIMIT)
    except RemoteProtocolError as error:
        raise StorageError(f"the settings of a group are not understood: {error}") from error
    if found.ack_wait <= 0 or found.max_deliveries < 0:
        raise StorageError("the settings of a group make no sense")
    return found


def _orderly(state: State) -> bool:
    if state.settings.ack_wait <= 0 or state.settings.max_deliveries < 0:
        return False
    before = -1
    for first, last, deliveries in state.ranges:
        if not before < first <= last or deliveries < 0:
            return False
        before = last
    return before < state.next


def bounded(ranges: list[tuple[int, int, int]], most: int = MOST_RANGES) -> list[tuple[int, int, int]]:
    """At most ``most`` ranges that cover at least ``ranges``; of those that are joined the fewest deliveries count."""
    if len(ranges) <= most:
        return ranges
    run = -(-len(ranges) // most)
    runs: Iterable[list[tuple[int, int, int]]] = (ranges[at : at + run] for at in range(0, len(ranges), run))
    return [(each[0][0], each[-1][1], min(deliveries for _, _, deliveries in each)) for each in runs]
