"""What a storage must do that several brokers use at the same time: `Sequenced`, `Shared`, `SharedGroups`.

Each check makes two or three storages over one place, as brokers would, and is not applicable to a storage that
belongs to one process.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from portask.contracts import Closeable, Grant, Sequenced, Shared, SharedGroups
from portask.errors import AlreadyStored, Fenced, NotPermitted, OutOfSequence, PortaskError
from portask.messages import RecordBatch, TopicPartition
from portask.registry import Entry
from portask.wire import batches
from portask_lab.conformance.storage_support import KEY, PATIENCE, Driver, batch_of, sandboxed
from portask_lab.conformance.suite import Check, NotApplicable, check, require

TOGETHER: list[Check] = []
_SETTINGS = b"settings"


class _Broker(Driver):
    """One storage as a broker among others would use it."""

    storage: Any

    def call(self, name: str, *arguments: Any) -> Any:
        """A method whose last argument is ``done(result, error)``."""
        return self._wait(lambda done: getattr(self.storage, name)(*arguments, done))

    def resume(self, producer: int, epoch: int, sequence: int) -> None:
        """`Sequenced.resume`; raises its error."""
        self._wait(
            lambda done: self.storage.resume(KEY, producer, epoch, sequence, lambda error: done(None, error))
        )

    def begin(self, start: int = 0) -> bytes:
        """Takes part in the group ``g``; the settings that hold."""
        found: bytes = self.call("begin", "g", KEY, _SETTINGS, start)
        return found

    def claim(self, count: int) -> Grant | None:
        """What is granted."""
        found: Grant | None = self.call("claim", "g", KEY, count)
        return found

    def report(self, state: bytes | None, covered: int) -> None:
        """Says what it holds, and stays."""
        self._wait(
            lambda done: self.storage.report(
                "g", KEY, (state, covered), (0, 0, 0, 0), lambda error: done(None, error)
            )
        )

    def leave(self, state: bytes | None, covered: int) -> None:
        """Says what it holds, and gives it to others."""
        self.storage.report("g", KEY, (state, covered), (1, 0, 0, 0), None)
        self.lookup(-1)  # what was asked before it is done


@contextmanager
def brokers(entry: Entry, count: int, ability: type) -> Iterator[list[_Broker]]:
    """So many storages over one place.

    Raises:
        NotApplicable: the variant has not the ability.
    """
    with sandboxed(entry) as sandbox, ExitStack() as stack:
        if not entry.sandbox:
            raise NotApplicable("it belongs to one process")
        found = []
        for _ in range(count):
            storage: Any = entry.make(**sandbox)
            if isinstance(storage, Closeable):
                stack.callback(storage.close)
            if not isinstance(storage, ability):
                raise NotApplicable(f"it is not {ability.__name__}")
            driver: Any = _Broker(storage)  # type: ignore[arg-type]  # it is a Storage, too
            found.append(driver)
        yield found


def _numbered(first: int, *payloads: bytes, epoch: int = 0) -> RecordBatch:
    return batches.parse(batches.numbered(bytes(batch_of(*payloads).data), 7, epoch, first))


def _refused(kind: type[PortaskError], call: Callable[[], object]) -> PortaskError:
    try:
        call()
    except kind as error:
        return error
    except PortaskError as error:
        require(False, f"{kind.__name__} was due, {error!r} came")
    require(False, f"{kind.__name__} was due, nothing came")
    raise AssertionError


def _until(storages: list[_Broker], holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        require(time.monotonic() < deadline, f"{what} within {PATIENCE:g} s")
        for broker in storages:
            broker.storage.poll()
        time.sleep(0.001)


@check(TOGETHER)
def offsets_are_given_once_to_all_brokers(entry: Entry) -> None:
    """Brokers that append in turn get dense offsets, and all of them see the same log."""
    with brokers(entry, 3, Shared) as found:
        for number in range(60):
            base = found[number % 3].append(batch_of(b"%d" % number, b"x"))
            require(base == 2 * number, f"offset {base} where {2 * number} was due")
        logs = [[(offset, message.payload) for offset, message in broker.messages()] for broker in found]
        require(logs[0] == logs[1] == logs[2], "brokers see different logs")
        require(len(logs[0]) == 120, "records are missing")


@check(TOGETHER)
def numbers_hold_whichever_broker_a_batch_comes_to(entry: Entry) -> None:
    """A retry is known as one, gaps and old epochs are refused, whoever took the batches before."""
    with brokers(entry, 2, Sequenced) as (one, other):
        require(one.append(_numbered(1, b"a", b"b")) == 0, "the first batch is not at 0")
        require(other.append(_numbered(3, b"c")) == 2, "the next one is not at 2")
        again = _refused(AlreadyStored, lambda: other.append(_numbered(1, b"a", b"b")))
        require(isinstance(again, AlreadyStored) and again.offset == 0, "a retry does not get its offset")
        _refused(OutOfSequence, lambda: one.append(_numbered(5, b"gap")))
        _refused(OutOfSequence, lambda: one.append(_numbered(3, b"other bytes")))
        one.resume(7, 0, 6)
        require(other.append(_numbered(6, b"f")) == 3, "a producer that gave numbers up cannot go on")
        _refused(Fenced, lambda: one.resume(7, 0, 0))
        require(one.append(_numbered(1, b"new", epoch=1)) == 4, "a new epoch does not begin anew")
        _refused(Fenced, lambda: other.append(_numbered(7, b"old")))
        require([m.payload for _, m in one.messages()] == [b"a", b"b", b"c", b"f", b"new"], "the log differs")


@check(TOGETHER)
def brokers_hear_of_each_others_records_and_topics(entry: Entry) -> None:
    """`grown` tells of partitions that others appended to, known or new, and of topics that they made."""
    with brokers(entry, 2, Shared) as found:
        one, other = found
        heard: dict[TopicPartition, int] = {}
        other.storage.grown = heard.__setitem__
        require(one.call("declare", "made", 4) == 4, "a topic has not the partitions that it was made with")
        require(other.call("declare", "made", 9) == 4, "the first broker's word does not hold")
        _until(found, lambda: other.storage.topics().get("made") == 4, "a topic is not heard of")
        key = TopicPartition("made", 3)
        for number in range(1, 4):
            one.append(batch_of(b"x"), key=key)
            _until(found, lambda number=number: heard.get(key) == number, f"append {number} is not heard of")  # type: ignore[misc]
        one.append(batch_of(b"x", b"y"), key=TopicPartition("new", 1))
        _until(found, lambda: heard.get(TopicPartition("new", 1)) == 2, "a new topic is not heard of")
        require(TopicPartition("new", 1) in set(other.storage.partitions()), "the catalog lacks it")


@check(TOGETHER)
def records_of_a_group_are_granted_once(entry: Entry) -> None:
    """Brokers that claim in turn get every record of the partition once, from the group's first offset on."""
    with brokers(entry, 3, SharedGroups) as found:
        found[0].append(batch_of(*[b"x"] * 100))
        for number, broker in enumerate(found):
            require(broker.begin(start=10 + number) == _SETTINGS, "the first settings do not hold")
        got: list[int] = []
        while True:
            grants = [broker.claim(7) for broker in found]
            for grant in grants:
                if grant is not None:
                    require(grant.state is None, "a grant of fresh records carries a state")
                    require(grant.last - grant.first < 7, f"7 were asked for, {grant} came")
                    got += range(grant.first, grant.last + 1)
            if not any(grants):
                break
        require(sorted(got) == list(range(10, 100)), "records are granted twice, or not at all")
        found[1].append(batch_of(b"late"))
        _until(found, lambda: found[2].claim(5) is not None, "what came later is not granted")


@check(TOGETHER)
def what_a_broker_gives_back_goes_to_others(entry: Entry) -> None:
    """Grants and a reported state of a broker that left are granted before anything fresh, each to one broker."""
    with brokers(entry, 3, SharedGroups) as found:
        leaving, one, other = found
        leaving.append(batch_of(*[b"x"] * 50))
        for broker in found:
            broker.begin()
        first, second = leaving.claim(10), leaving.claim(10)
        require(first is not None and second is not None, "nothing was granted")
        assert first is not None  # noqa: S101 - for the type checker
        assert second is not None  # noqa: S101 - for the type checker
        leaving.report(b"what I hold", first.number)
        leaving.leave(b"what I still hold", first.number)
        grants = [one.claim(10), other.claim(10), one.claim(10)]
        states = [grant.state for grant in grants if grant is not None and grant.state is not None]
        require(states == [b"what I still hold"], f"the states granted are {states}")
        ranges = sorted(
            (grant.first, grant.last) for grant in grants if grant is not None and grant.state is None
        )
        require(
            ranges == [(10, 19), (20, 29)],
            f"the records granted are {ranges}, not those given back and the next",
        )


@check(TOGETHER)
def a_report_covers_what_came_before_it(entry: Entry) -> None:
    """A broker that reports and leaves without anything leaves nothing; a grant after its report is not lost."""
    with brokers(entry, 2, SharedGroups) as (one, other):
        one.append(batch_of(*[b"x"] * 30))
        one.begin()
        other.begin()
        first = one.claim(10)
        assert first is not None  # noqa: S101 - for the type checker
        second = one.claim(10)
        assert second is not None  # noqa: S101 - for the type checker
        one.leave(None, first.number)  # the first is done, of the second it says nothing
        got = [other.claim(10), other.claim(10), other.claim(10)]
        ranges = [(grant.first, grant.last) for grant in got if grant is not None]
        require(ranges == [(10, 19), (20, 29)], f"granted were {ranges}")
        parts = one.call("group_parts")
        require([part.counts[0] for part in parts] == [1], "counts are not added up")
        require(
            sorted((held.first, held.last) for held in parts[0].held) == ranges, "what is held is not told"
        )
        require(parts[0].next == 30, f"the group is at {parts[0].next}, not at 30")


@check(TOGETHER)
def groups_are_dropped_when_nobody_takes_part(entry: Entry) -> None:
    """While a broker takes part a group cannot be dropped; afterwards it can, and is gone everywhere."""
    with brokers(entry, 2, SharedGroups) as (one, other):
        one.append(batch_of(*[b"x"] * 5))
        require(one.call("drop_group", "g") is False, "there is a group before anybody took part")
        one.begin(start=5)
        _refused(NotPermitted, lambda: other.call("drop_group", "g"))
        one.leave(None, 0)
        require(other.call("drop_group", "g") is True, "there was no group")
        require(other.call("group_parts") == [], "the group is still there")
        one.begin(start=2)
        grant = one.claim(10)
        require(grant is not None and (grant.first, grant.last) == (2, 4), "a new group does not begin anew")


@check(TOGETHER)
def nothing_is_forgotten_however_brokers_come_and_go(entry: Entry) -> None:
    """Through random claims, reports, work and departures, every record is done in the end, and only once."""
    chance = random.Random(17)
    with brokers(entry, 3, SharedGroups) as found:
        found[0].append(batch_of(*[b"x"] * 400))
        done: list[int] = []
        held: list[tuple[list[int], int] | None] = [
            None
        ] * 3  # offsets and the last grant in them; None: it is away
        for turn in range(600):
            at = chance.randrange(3)
            broker, mine = found[at], held[at]
            if mine is None:
                broker.begin()
                held[at] = ([], 0)
                continue
            offsets, covered = mine
            action = chance.random()
            if action < 0.5:
                grant = broker.claim(chance.randint(1, 20))
                if grant is not None:
                    fresh = (
                        range(grant.first, grant.last + 1)
                        if grant.state is None
                        else _read_state(grant.state)
                    )
                    held[at] = ([*offsets, *fresh], grant.number)
            elif action < 0.8:
                keep = chance.randint(0, len(offsets))
                done += offsets[keep:]
                held[at] = (offsets[:keep], covered)
                broker.report(_state(offsets[:keep]), covered)
            elif action < 0.9 or turn > 550:
                broker.leave(_state(offsets), covered)
                held[at] = None
        for at, mine in enumerate(held):
            if mine is not None:
                found[at].leave(_state(mine[0]), mine[1])
        last = found[0]
        last.begin()
        while (grant := last.claim(1000)) is not None:
            done += range(grant.first, grant.last + 1) if grant.state is None else _read_state(grant.state)
        require(sorted(done) == list(range(400)), "records were done twice, or never")


def _state(offsets: list[int]) -> bytes | None:
    return b" ".join(b"%d" % offset for offset in offsets) or None


def _read_state(state: bytes) -> list[int]:
    return [int(word) for word in state.split()]
