"""Who is let in, what for, and what happens when that changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from structlog.testing import capture_logs

from portask.config import tokens
from portask.core.admission import FAILURES, PENALTY, WINDOW
from portask.core.broker import Options
from portask.errors import AuthenticationFailed, NotPermitted
from portask.wire import control, inboxes
from portask.wire.frames import Opcode
from tests.core.people import BOSS, READER, TOKENS, WRITER, knows
from tests.core.talking import SECOND, Client, Desk, batch_of

EVERYBODY = knows(writer=WRITER, reader=READER, boss=BOSS, nobody={})


def fault_of(desk: Desk, token: str | None, **more: Any) -> control.Error:
    """Why a client with that token is not let in."""
    client = desk.client(greet=False, **more)
    client.connection.send_hello("test", token)
    desk.turn()
    assert client.hung_up
    ((number, error),) = client.errors()
    assert number == 0
    return error


# ── HELLO ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_token_says_who_it_is_and_is_not_kept() -> None:
    desk = Desk(authenticator=EVERYBODY)
    client = desk.client(token=TOKENS["writer"])
    assert client.connection.welcome is not None
    assert client.connection.welcome.identity == "writer"
    assert client.session.standing.identity.name == "writer"
    holders: list[Any] = [client.session, client.session.connection, client.session.standing]
    kept = [getattr(holder, name) for holder in holders for name in type(holder).__slots__]
    assert "test" in kept  # what it calls itself
    assert TOKENS["writer"] not in repr(kept)


def test_the_token_in_a_hello_is_never_shown() -> None:
    assert TOKENS["writer"] not in repr(control.Hello([2], token=TOKENS["writer"]))


def test_what_is_wrong_is_not_told_to_who_is_refused() -> None:
    desk = Desk(authenticator=EVERYBODY)
    right = TOKENS["writer"]
    wrong = right[:-1] + ("A" if right[-1] != "A" else "B")
    for token in (
        None,
        "",
        wrong,
        tokens.mint("writer"),
        tokens.mint("stranger"),
        "hunter2",
        right[8:],
        "é" * 40,
    ):
        with capture_logs() as logs:
            error = fault_of(desk, token)
        assert error.code == AuthenticationFailed.code
        assert (
            error.message
            == "this broker asks who is there: show a valid token, or a certificate that it knows"
        )
        (line,) = logs
        assert line["event"] == "authentication failed"
        assert line["peer"] == "test:1"
        assert line["identity"] in {"", "writer", "stranger"}
        assert right[-40:] not in str(logs)
        assert not token or token[-40:] not in str(logs)


def test_whoever_was_refused_can_do_nothing() -> None:
    desk = Desk(authenticator=EVERYBODY)
    client = desk.client(greet=False)
    client.connection.send_hello("test", tokens.mint("boss"))
    client.raw = b""
    client.connection.send_control(Opcode.OPEN, control.Open("a.b"), 1, 1)
    client.connection.send(Opcode.PUBLISH, batch_of(b"x").data, 2, 1)
    desk.turn()
    assert client.hung_up
    assert desk.broker.topics == {}
    assert [code for _, code in client.codes()] == [AuthenticationFailed.code]


def test_two_tokens_are_good_while_one_replaces_the_other() -> None:
    old, new = tokens.mint("writer"), tokens.mint("writer")
    both = knows(writer={**WRITER, "token_hash": [tokens.hash_line(old), tokens.hash_line(new)]})
    desk = Desk(authenticator=both)
    for token in (old, new):
        desk.client(token=token)
    fault_of(desk, tokens.mint("writer"))


def test_a_certificate_says_who_it_is_too() -> None:
    desk = Desk(
        authenticator=knows(
            one={"certificate": ["CN:one", "DNS:One.example"]},
            two={"certificate": ["URI:spiffe://x/two"]},
            boss=BOSS,
        )
    )
    for names, found in [
        (("CN:one",), "one"),
        (("CN:else", "DNS:oNe.example"), "one"),
        (("CN:else", "URI:spiffe://x/two"), "two"),
    ]:
        client = desk.client(certificate=names)
        assert client.session.standing.identity.name == found
    for names in (("CN:One",), ("CN:one", "URI:spiffe://x/two"), ("DNS:one",)):
        assert fault_of(desk, None, certificate=names).code == AuthenticationFailed.code
    # a token that is shown decides, right or wrong
    client = desk.client(token=TOKENS["boss"], certificate=("CN:one",))
    assert client.session.standing.identity.name == "boss"
    fault_of(desk, tokens.mint("boss"), certificate=("CN:one",))


def test_who_shows_nothing_is_anonymous_where_that_is_allowed_and_a_wrong_token_never_is() -> None:
    desk = Desk(authenticator=knows([{"action": "subscribe", "filter": "public.>"}], writer=WRITER))
    client = desk.client()
    assert client.session.standing.identity.name == "anonymous"
    client.subscribe("public.*")
    client.subscribe("a.b", 2)
    desk.turn()
    assert [code for _, code in client.codes()] == [NotPermitted.code]
    fault_of(desk, tokens.mint("writer"))


def test_without_an_authenticator_everybody_may_do_everything() -> None:
    desk = Desk()
    client = desk.client(token=TOKENS["writer"])
    client.open("anything")
    assert client.connection.welcome is not None
    assert client.connection.welcome.identity == ""


def test_who_fails_often_waits_for_the_answer_and_others_behind_the_address_do_not() -> None:
    desk = Desk(authenticator=EVERYBODY)
    with capture_logs() as logs:
        for _ in range(FAILURES):
            fault_of(desk, None, peer="10.0.0.1:5")
        late = [desk.client(greet=False, peer="10.0.0.1:6") for _ in range(3)]
        for client in late:
            client.connection.send_hello()
        desk.turn()
        assert [client.errors() for client in late] == [[], [], []]
        assert not any(client.hung_up for client in late)
        desk.client(token=TOKENS["writer"], peer="10.0.0.1:7")
        fault_of(desk, None, peer="10.0.0.2:5")
        assert [line["peer"] for line in logs] == ["10.0.0.1:5"] * FAILURES + ["10.0.0.2:5"]
        due = desk.broker.deadline()
        assert due is not None
        assert due <= desk.now + PENALTY
        desk.turn(PENALTY)
        assert all(client.hung_up for client in late)
        assert [error.code for client in late for _, error in client.errors()] == [
            AuthenticationFailed.code
        ] * 3
        logs.clear()
        desk.turn(WINDOW)
    assert [(line["event"], line["address"], line["count"]) for line in logs] == [
        ("more authentications failed", "10.0.0.1", 3)
    ]
    fault_of(desk, None, peer="10.0.0.1:8")  # at once again


def test_who_leaves_before_the_late_answer_leaves_nothing_behind() -> None:
    desk = Desk(authenticator=EVERYBODY)
    for _ in range(FAILURES):
        fault_of(desk, None)
    client = desk.client(greet=False)
    client.connection.send_hello()
    desk.turn()
    client.hang_up()
    desk.turn(PENALTY)
    assert desk.broker.pacing._withheld == {}
    assert desk.broker.pacing._resting == []


# ── requests ──────────────────────────────────────────────────────────────────────────────────────────────────────────

ASK = Callable[[Client], int]


def opens(topic: str) -> ASK:
    return lambda client: _ask(client, Opcode.OPEN, control.Open(topic), 1)


def subscribes(text: str, **more: Any) -> ASK:
    return lambda client: _ask(client, Opcode.SUBSCRIBE, control.Subscribe(text, **more), 2)


def fetches(topic: str) -> ASK:
    return lambda client: _ask(client, Opcode.FETCH, control.Fetch(topic))


def describes(text: str = ">", groups: str = "") -> ASK:
    return lambda client: _ask(client, Opcode.DESCRIBE, control.Describe(text, groups))


def drops(group: str) -> ASK:
    return lambda client: _ask(client, Opcode.DROP_GROUP, control.DropGroup(group))


def sends(name: str) -> ASK:
    def ask(client: Client) -> int:
        number = client.correlation()
        client.connection.send(Opcode.SEND, inboxes.pack(name, batch_of(b"x").data), number)
        return number

    return ask


def _ask(client: Client, opcode: Opcode, body: Any, channel: int = 0) -> int:
    number = client.correlation()
    client.connection.send_control(opcode, body, number, channel)
    return number


def only(action: str, text: str = "a.*") -> dict[str, Any]:
    return {"allow": [{"action": action, "filter": text}]}


MATRIX = [
    # what is asked, and the rules that it takes: without any one of them it is refused
    (opens("a.old"), [("publish", "a.*")]),
    (opens("a.new"), [("publish", "a.*"), ("create", "a.*")]),
    (subscribes("a.old"), [("subscribe", "a.*")]),
    (subscribes("a.*"), [("subscribe", "a.>")]),
    (subscribes("a.>"), [("subscribe", "a.>")]),
    (subscribes("a.old", group="g.1"), [("subscribe", "a.*"), ("group", "g.*")]),
    (
        subscribes("a.old", group="g.1", dead_letter="b.old"),
        [("subscribe", "a.*"), ("group", "g.*"), ("publish", "b.old")],
    ),
    (
        subscribes("a.old", group="g.1", dead_letter="b.new"),
        [("subscribe", "a.*"), ("group", "g.*"), ("publish", "b.new"), ("create", "b.>")],
    ),
    (fetches("a.old"), [("subscribe", "a.old")]),
    (describes(), [("describe", "b")]),
    (drops("g.1"), [("drop_group", "g.*")]),
    (sends("_inbox.boss.1"), [("publish", "_inbox.boss.>")]),
    (subscribes("_inbox.me.1"), []),
]


@pytest.mark.parametrize(("ask", "needed"), MATRIX)
def test_the_matrix(ask: ASK, needed: list[tuple[str, str]]) -> None:
    every = ["publish", "create", "subscribe", "describe", "group", "drop_group"]
    everything_else = [{"action": every, "filter": "else.>"}]
    for missing in (None, *needed):
        rules = [{"action": action, "filter": text} for action, text in needed if (action, text) != missing]
        token = tokens.mint("me")
        me = {"token_hash": [tokens.hash_line(token)], "allow": everything_else + rules}
        if missing is not None and missing[0] == "describe":
            me["allow"] = rules
        desk = Desk(authenticator=knows(me=me, boss=BOSS))
        boss = desk.client(token=TOKENS["boss"])
        for channel, topic in enumerate(("a.old", "b.old"), 1):
            boss.open(topic, channel)
        boss.subscribe("_inbox.boss.1", 5)
        desk.turn()
        before = dict(desk.broker.topics)
        client = desk.client(token=token)
        number = ask(client)
        desk.settle()
        refused = [error for _, error in client.errors() if error.code == NotPermitted.code]
        if missing is None:
            assert refused == []
        else:
            (error,) = refused
            assert error.message.startswith(f"'me' may not {missing[0]} ")
            assert "auth.identities.me.allow" in error.message
            assert desk.broker.topics == before
            assert client.session.channels == {}
            assert client.session.subscriptions == {}
        assert not client.hung_up, number


@pytest.mark.parametrize(
    ("text", "allowed"),
    [("a", False), ("a.b", True), ("a.*", True), ("a.>", False), ("*", False), ("*.b", False), (">", False)],
)
def test_a_subscription_sees_nothing_that_is_not_allowed(text: str, allowed: bool) -> None:
    desk = Desk(authenticator=EVERYBODY)
    client = desk.client(token=TOKENS["reader"])
    client.subscribe(text)
    desk.turn()
    assert client.codes() == [] if allowed else [code for _, code in client.codes()] == [NotPermitted.code]


def test_what_may_not_be_read_is_not_told_apart_from_what_is_not_there() -> None:
    desk = Desk(authenticator=EVERYBODY)
    desk.client(token=TOKENS["boss"]).open("secret.there")
    client = desk.client(token=TOKENS["nobody"])
    said = []
    for ask in (fetches, opens, subscribes, drops):
        for name in ("secret.there", "secret.none"):
            ask(name)(client)
            desk.turn()
            ((_, error),) = client.errors()
            said.append((error.code, error.message.replace(name, "…")))
    assert said[::2] == said[1::2]


def test_describe_names_only_what_may_be_heard_of() -> None:
    rules = [{"action": "describe", "filter": "a.*"}, {"action": "describe", "filter": "g.1"}]
    desk = Desk(authenticator=knows(reader={"allow": rules}, boss=BOSS))
    boss = desk.client(token=TOKENS["boss"])
    for channel, topic in enumerate(("a.1", "a.2.deep", "b"), 1):
        boss.open(topic, channel)
    for channel, group in enumerate(("g.1", "g.2"), 10):
        subscribes_in = control.Subscribe(">", group=group)
        boss.connection.send_control(Opcode.SUBSCRIBE, subscribes_in, boss.correlation(), channel)
    desk.settle()
    client = desk.client(token=TOKENS["reader"])
    describes(">", ">")(client)
    desk.settle()
    (frame,) = client.take(Opcode.DESCRIBE)
    found = control.decode(frame.body, control.Described)
    assert [info.topic for info in found.topics] == ["a.1"]
    assert [info.group for info in found.groups] == ["g.1"]
    assert [part.topic for part in found.groups[0].partitions] == ["a.1"]


def test_an_inbox_is_for_whom_it_is_named_after() -> None:
    desk = Desk(authenticator=EVERYBODY)
    client = desk.client(token=TOKENS["nobody"])
    for channel, name in enumerate(
        ("_inbox.boss.1", "_inbox.1", "_inbox.nobod", "_inbox.nobodyelse.1", "_inbox.*"), 1
    ):
        client.subscribe(name, channel)
    desk.turn()
    assert [code for _, code in client.codes()] == [NotPermitted.code] * 5
    client.subscribe("_inbox.nobody.x", 9)
    desk.turn()
    assert client.errors() == []
    boss = desk.client(token=TOKENS["boss"])  # may do everything, and yet not read others' replies
    boss.subscribe("_inbox.nobody.x")
    desk.turn()
    assert [code for _, code in boss.codes()] == [NotPermitted.code]


# ── limits of an identity ─────────────────────────────────────────────────────────────────────────────────────────────


def limited(**limits: int) -> Desk:
    return Desk(authenticator=knows(writer={**BOSS, "limits": limits}, boss=BOSS))


def test_connections_of_one_identity_are_counted_and_freed() -> None:
    desk = limited(max_connections=2)
    first, _ = desk.client(token=TOKENS["writer"]), desk.client(token=TOKENS["writer"])
    error = fault_of(desk, TOKENS["writer"])
    assert error.code == NotPermitted.code
    assert error.message == "'writer' has 2 connections (max_connections of its limits)"
    desk.client(token=TOKENS["boss"])
    first.hang_up()
    desk.client(token=TOKENS["writer"])
    fault_of(desk, TOKENS["writer"])


def test_subscriptions_of_one_identity_are_counted_over_its_connections_and_freed() -> None:
    desk = limited(max_subscriptions=3)
    first, second = desk.client(token=TOKENS["writer"]), desk.client(token=TOKENS["writer"])
    first.open("a")
    first.subscribe("a", 1)
    first.connection.send_control(Opcode.SUBSCRIBE, control.Subscribe("a", group="g"), first.correlation(), 2)
    second.subscribe("a", 1)
    desk.settle()
    assert first.errors() == second.errors() == []
    for client in (first, second):
        client.subscribe("b", 3)
        desk.settle()
        ((_, error),) = client.errors()
        assert error.message == "'writer' has 3 subscriptions (max_subscriptions of its limits)"
    first.connection.send(Opcode.UNSUBSCRIBE, b"", 9, 2)
    desk.settle()
    second.subscribe("b", 3)
    desk.settle()
    assert second.errors() == []
    first.hang_up()
    second.subscribe("c", 4)
    desk.settle()
    assert second.errors() == []
    # a refused group takes no place
    for channel in range(10, 20):
        body = control.Subscribe("a", group="not a name")
        second.connection.send_control(Opcode.SUBSCRIBE, body, second.correlation(), channel)
    desk.settle()
    account = desk.broker.admission.accounts["writer"]
    assert list(account.subscriptions) == list(second.session.subscriptions.values())


# ── new rules ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def renew(desk: Desk, authenticator: Any) -> None:
    desk.broker.admission.authenticator = authenticator
    desk.settle()


def test_whoever_is_not_known_any_more_is_hung_up_on() -> None:
    desk = Desk(authenticator=EVERYBODY)
    writer, boss = desk.client(token=TOKENS["writer"]), desk.client(token=TOKENS["boss"])
    early = desk.client(greet=False)
    renew(desk, knows(boss=BOSS))
    assert writer.hung_up
    assert [code for _, code in writer.codes()] == [AuthenticationFailed.code]
    assert not boss.hung_up
    assert not early.hung_up
    early.connection.send_hello("late", TOKENS["writer"])
    desk.turn()
    assert early.hung_up


def test_a_replaced_token_ends_its_connections() -> None:
    desk = Desk(authenticator=EVERYBODY)
    writer = desk.client(token=TOKENS["writer"])
    renew(desk, knows(writer={**WRITER, "token_hash": [tokens.hash_line(tokens.mint("writer"))]}))
    assert writer.hung_up


@pytest.mark.parametrize("what", ["channel", "subscription", "group", "nothing"])
def test_what_is_open_and_not_allowed_any_more_ends_the_connection(what: str) -> None:
    everything = {"allow": [{"action": "*", "filter": ">"}]}
    desk = Desk(authenticator=knows(writer=everything))
    client = desk.client(token=TOKENS["writer"])
    if what == "channel":
        client.open("b")
    elif what != "nothing":
        subscribes("b", group="g" if what == "group" else "")(client)
    desk.settle()
    less = [{"action": "*", "filter": "a.>"}]
    if what == "group":
        less.append({"action": "subscribe", "filter": "b"})
    renew(desk, knows(writer={"allow": less}))
    assert client.hung_up is (what != "nothing")
    if client.hung_up:
        ((_, error),) = client.errors()
        assert error.code == NotPermitted.code
        assert error.message.startswith("'writer' may not ")
        assert desk.broker.admission.accounts["writer"].sessions == {}
    else:
        opens("b")(client)
        desk.turn()
        assert [code for _, code in client.codes()] == [NotPermitted.code]


def test_what_is_still_allowed_stays_open() -> None:
    desk = Desk(authenticator=EVERYBODY)
    writer = desk.client(token=TOKENS["writer"])
    writer.open("a.b")
    renew(desk, knows(writer={"allow": [{"action": "publish", "filter": "a.b"}]}))
    assert not writer.hung_up
    writer.publish(batch_of(b"x"))
    desk.turn()
    assert writer.acked() == [0]


def test_turning_it_on_asks_those_too_who_are_there() -> None:
    desk = Desk()
    plain, known = desk.client(), desk.client(token=TOKENS["writer"])
    for channel, client in enumerate((plain, known), 1):
        client.open("a.b", channel)
    renew(desk, EVERYBODY)
    assert plain.hung_up
    assert not known.hung_up
    assert list(desk.broker.admission.accounts["writer"].sessions) == [known.session]
    renew(desk, None)
    known.open("elsewhere", 7)
    assert desk.broker.admission.accounts["writer"].sessions == {}


def test_looking_again_costs_nothing_when_nothing_changed() -> None:
    desk = Desk(authenticator=EVERYBODY)
    client = desk.client(token=TOKENS["writer"])
    standing = client.session.standing
    desk.turn(SECOND)
    assert client.session.standing is standing


# ── before HELLO ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_one_byte_at_a_time_is_no_way_to_stay() -> None:
    desk = Desk(Options(hello_timeout=3 * SECOND), authenticator=EVERYBODY)
    client = desk.client(greet=False)
    client.connection.send_hello("slow", TOKENS["writer"])
    data = b"".join(client.connection.take_output())
    for at in range(len(data) - 1):
        client.raw = data[at : at + 1]
        desk.turn(SECOND // 4)
        if client.hung_up:
            break
    assert client.hung_up
    ((_, error),) = client.errors()
    assert error.message == "no HELLO within 3 s"
