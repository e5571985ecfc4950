"""Limits of an identity are limits at all workers together."""

from __future__ import annotations

from portask.config.access import ACTIONS
from portask.core.accounts import Account
from portask.core.admission import FAILURES
from portask.core.identities import Credentials, Identity, Limits
from portask.errors import AuthenticationFailed
from portask.wire.frames import Opcode
from tests.core.talking import LOTS, Client
from tests.multicore.several import Several
from tests.multicore.test_routing import batch


class Everybody:
    """Whoever comes is the same one."""

    def __init__(self, limits: Limits) -> None:
        self.identity = Identity("one", dict.fromkeys(ACTIONS, (">",)), limits)

    def authenticate(self, credentials: Credentials) -> Identity:
        return self.identity


def limited(**limits: int) -> Several:
    return Several(3, authenticator=Everybody(Limits(**limits)))


def come(several: Several, place: int) -> Client:
    client = several.client(place, greet=False)
    client.connection.send_hello("test", None)
    several.turn()
    return client


def account(several: Several, place: int) -> Account:
    return several.workers[place].broker.admission.accounts["one"]


def test_connections() -> None:
    several = limited(connections=3)
    inside = [come(several, place) for place in range(3)]
    assert all(client.take(Opcode.WELCOME) for client in inside)
    outside = [come(several, place) for place in range(3)]
    assert [client.codes() for client in outside] == [[(0, "not-permitted")]] * 3
    inside[1].hang_up()
    several.turn()
    assert come(several, 0).take(Opcode.WELCOME)


def test_a_worker_that_had_nothing_of_an_identity_knows_what_others_have() -> None:
    several = limited(connections=2)
    inside = [come(several, 0) for _ in range(2)]
    assert all(client.take(Opcode.WELCOME) for client in inside)
    several.settle()
    assert come(several, 1).codes() == [(0, "not-permitted")], "its first one there, and the third of all"


class Nobody:
    """Whoever comes is a stranger."""

    def authenticate(self, credentials: Credentials) -> Identity:
        raise AuthenticationFailed("who are you?")


def test_who_keeps_failing_waits_for_the_answer_at_every_worker() -> None:
    several = Several(3, authenticator=Nobody())
    for number in range(FAILURES):
        assert come(several, number % 3).codes() == [(0, "authentication-failed")]
    late = [come(several, place) for place in range(3)]
    assert [client.codes() for client in late] == [[], [], []], "the answer takes its time"
    counts = [worker.broker.admission._failures["test"][1] for worker in several.workers]
    assert counts == [FAILURES + 1] * 3, "each counts what it did not log"


def test_subscriptions_are_counted_once_however_many_workers_have_a_part_of_them() -> None:
    several = limited(subscriptions=2)
    first, second = come(several, 0), come(several, 1)
    first.subscribe(">", 1)
    several.turn()
    second.subscribe(">", 1)
    several.turn()
    assert not first.errors()
    assert not second.errors()
    first.subscribe("a", 2)
    several.turn()
    assert [code for _, code in first.codes()] == ["not-permitted"]
    second.connection.send(Opcode.UNSUBSCRIBE, b"", 9, 1)
    several.turn()
    first.subscribe("a", 2, messages=LOTS)
    several.turn()
    assert not first.errors()


def test_rates_are_divided_among_workers_that_have_connections() -> None:
    several = limited(messages=300)
    first = come(several, 0)
    (bucket,) = account(several, 0).messages
    assert bucket._rate == 300
    others = [come(several, 1), come(several, 2)]
    assert [account(several, place).messages[0]._rate for place in range(3)] == [100, 100, 100]
    for client in others:
        client.hang_up()
    several.turn()
    assert bucket._rate == 300
    assert account(several, 0).messages[0] is bucket, "or it would be full again"
    first.open("t", 1)
    first.publish(batch(*[b"x"] * 900), 1)
    several.turn()
    assert first.session.paused, "at its home, wherever the partition is"
    assert first.acked() == [0]


def test_a_worker_that_is_gone_has_nothing_of_it() -> None:
    several = limited(connections=2, messages=100)
    come(several, 0)
    come(several, 1)
    several.workers[0].broker.unlink(1)
    assert account(several, 0).elsewhere == (0, 0)
    assert account(several, 0).messages[0]._rate == 100
