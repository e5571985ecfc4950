"""Who publishes too fast, or has too much unacknowledged, is not read for a while; nothing is lost."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portask.core.broker import Options
from portask.core.pacing import SIGN
from portask.core.rates import Bucket
from tests.core.later import LaterStorage
from tests.core.people import BOSS, TOKENS, knows
from tests.core.talking import SECOND, START, Client, Desk, batch_of

STEPS = st.lists(st.tuples(st.integers(0, 10**7), st.integers(0, 10**6)), max_size=30)


@given(st.integers(1, 10**9), STEPS)
def test_a_bucket_is_exact(rate: int, steps: list[tuple[int, int]]) -> None:
    """Against the same in fractions. `ready` is the first whole µs at which the level is not below zero."""
    bucket = Bucket(rate, START)
    level, now = Fraction(rate), START
    for passed, amount in steps:
        now += passed
        level = min(Fraction(rate), level + Fraction(passed * rate, SECOND)) - amount
        bucket.take(amount, now)
        wait = bucket.ready - now
        assert wait >= 0
        assert level + Fraction(wait * rate, SECOND) >= 0
        assert wait == 0 or level + Fraction((wait - 1) * rate, SECOND) < 0


def limited(**limits: int) -> Desk:
    return Desk(authenticator=knows(writer={**BOSS, "limits": limits}, boss=BOSS))


def publisher(desk: Desk, topic: str = "a", token: str | None = None) -> Client:
    client = desk.client(token=token)
    client.open(topic)
    return client


BATCH = batch_of(*[b"x" * 84] * 10)
SIZE = 10 * len(BATCH.data)
RATES = [
    (Options(publish_messages=100), {"max_published_per_s": 100}),
    (Options(publish_bytes=SIZE), {"max_published_bytes_per_s": SIZE}),
]


def paused(*clients: Client) -> list[bool]:
    return [client.session.paused for client in clients]


def flood(desk: Desk, client: Client, seconds: int) -> int:
    """Publishes whenever it is read; returns how many batches were acknowledged."""
    end = desk.now + seconds * SECOND
    acked = 0
    while desk.now < end:
        if not client.session.paused:
            client.publish(BATCH)
        due = desk.broker.deadline()
        desk.turn(1000 if due is None or not client.session.paused else max(0, due - desk.now))
        acked += len(client.acked())
    return acked


@pytest.mark.parametrize("rates", RATES)
@pytest.mark.parametrize("of", ["connection", "identity"])
def test_a_flood_is_let_through_at_the_rate(rates: tuple[Options, dict[str, int]], of: str) -> None:
    per_connection, per_identity = rates
    desk = Desk(per_connection) if of == "connection" else limited(**per_identity)
    client = publisher(desk, token=TOKENS["writer"])
    acked = flood(desk, client, 20)
    # ten batches a second, the first second's worth at once, and one that goes over
    assert 200 <= acked <= 212


def test_what_arrived_is_taken_and_the_rest_waits() -> None:
    desk = Desk(Options(publish_messages=100))
    client = publisher(desk)
    for _ in range(30):
        client.publish(BATCH)
    desk.turn()
    assert len(client.acked()) == 30, "one read's worth is not cut"
    assert paused(client) == [True]
    ready = desk.now + 2 * SECOND
    while paused(client)[0]:
        due = desk.broker.deadline()
        assert due is not None
        desk.turn(due - desk.now)
    assert desk.now == ready, "neither earlier nor when somebody happens to look"


def test_who_waits_long_hears_that_the_broker_is_there_and_is_not_taken_for_silent() -> None:
    desk = Desk(Options(publish_messages=10, keepalive=5 * SECOND))
    client = publisher(desk)
    for _ in range(30):
        client.publish(BATCH)
    desk.turn()
    pongs = 0
    while paused(client)[0]:
        due = desk.broker.deadline()
        assert due is not None
        assert due <= desk.now + SIGN
        desk.turn(max(1, due - desk.now))
        pongs += len(client.connection.take_output()) > 0
    assert pongs >= 28 * SECOND // SIGN
    assert not client.hung_up
    assert desk.now >= START + 29 * SECOND
    client.publish(BATCH)
    desk.turn()
    assert len(client.acked()) == 31


def test_connections_of_one_identity_share_its_rate_and_others_do_not() -> None:
    desk = limited(max_published_per_s=100)
    first = publisher(desk, token=TOKENS["writer"])
    second = publisher(desk, token=TOKENS["writer"])
    boss = publisher(desk, token=TOKENS["boss"])
    for _ in range(20):
        first.publish(BATCH)
        boss.publish(BATCH)
    desk.turn()
    assert first.session.paused
    assert not boss.session.paused
    assert paused(second) == [False], "it did not publish yet"
    second.publish(BATCH)
    desk.turn()
    assert paused(second) == [True]
    # a new connection does not find the buckets full
    first.hang_up()
    third = publisher(desk, token=TOKENS["writer"])
    third.publish(BATCH)
    desk.turn()
    assert third.session.paused


def test_who_only_consumes_does_not_wait_for_others_of_its_identity() -> None:
    desk = limited(max_published_per_s=10)
    first = publisher(desk, token=TOKENS["writer"])
    consumer = desk.client(token=TOKENS["writer"])
    consumer.subscribe("a", messages=1)
    desk.turn()
    for _ in range(5):
        first.publish(BATCH)
    desk.settle()
    assert first.session.paused
    assert not consumer.session.paused
    assert len(consumer.payloads()) == 10
    consumer.credit(1000)
    desk.turn()
    assert len(consumer.payloads()) == 40


def test_without_limits_there_is_no_meter() -> None:
    desk = limited(max_connections=5)
    assert publisher(desk, token=TOKENS["writer"]).session.meter is None


def test_new_limits_hold_for_who_is_there() -> None:
    desk = limited()
    client = publisher(desk, token=TOKENS["writer"])
    desk.broker.admission.authenticator = knows(writer={**BOSS, "limits": {"max_published_per_s": 10}})
    desk.turn()
    for _ in range(5):
        client.publish(BATCH)
    desk.turn()
    assert paused(client) == [True]
    desk.broker.options = Options(publish_messages=1000)
    desk.broker.admission.authenticator = knows(writer=BOSS)
    desk.turn()
    desk.turn(SECOND)
    assert paused(client) == [False]


def test_unacknowledged_bytes_are_counted_over_all_connections_of_an_identity() -> None:
    storage = LaterStorage()
    size = len(BATCH.data)
    auth = knows(writer={**BOSS, "limits": {"max_unacked_bytes": 3 * size}}, boss=BOSS)
    desk = Desk(storage=storage, authenticator=auth)
    first, second = (publisher(desk, token=TOKENS["writer"]) for _ in range(2))
    boss = publisher(desk, token=TOKENS["boss"])
    consumer = desk.client(token=TOKENS["writer"])
    consumer.subscribe("a")
    storage.finish_all()
    desk.settle()
    for client in (first, first, second, boss, boss, boss, boss):
        client.publish(BATCH)
    desk.turn()
    assert paused(first, second) == [False, False]
    second.publish(BATCH)
    desk.turn()
    first.publish(BATCH)
    desk.broker.admission.authenticator = knows(
        writer={**BOSS, "limits": {"max_unacked_bytes": 2 * size}}, boss=BOSS
    )
    consumer.credit(1)
    boss.credit(1)
    desk.turn()
    assert paused(first, second, boss, consumer) == [True, True, False, False]
    storage.finish_all()
    desk.settle()
    assert paused(first, second) == [False, False]
    assert desk.broker.admission.accounts["writer"].unacked == 0
    assert (len(first.acked()), len(second.acked())) == (3, 2)


def test_who_leaves_takes_its_unacknowledged_bytes_along() -> None:
    storage = LaterStorage()
    auth = knows(writer={**BOSS, "limits": {"max_unacked_bytes": len(BATCH.data)}})
    desk = Desk(storage=storage, authenticator=auth)
    first, second = (publisher(desk, token=TOKENS["writer"]) for _ in range(2))
    for client in (first, second):
        client.publish(BATCH)
        client.publish(BATCH)
        desk.turn()
    assert paused(first, second) == [True, True]
    first.hang_up()
    desk.turn()
    assert paused(second) == [True]
    second.hang_up()
    storage.finish_all()
    desk.settle()
    account: Any = desk.broker.admission.accounts["writer"]
    assert (account.unacked, account.waiting, account.sessions) == (0, {}, {})
