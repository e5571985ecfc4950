"""Nothing is sent but what `commands` lists, and all keys of a command carry one hash tag."""

from __future__ import annotations

import re
import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from redis.asyncio import connection

from portask.contracts import EARLIEST, LATEST
from portask.errors import PortaskError, StorageError
from portask.messages import TopicPartition
from portask.wire import batches
from portask_lab.conformance.storage_support import BASE, KEY, batch_of
from portask_variants.storage.redis_streams import durability, link
from portask_variants.storage.redis_streams.commands import COMMANDS, CONNECTING, SCRIPTED
from portask_variants.storage.redis_streams.transactions import LARGE
from tests.redis_streams.conftest import Make, Place, place_of, until

_TAG = re.compile(r"\{([^}]+)\}")
_TWO_WORDS = {"CLIENT", "CONFIG", "CLUSTER"}
_WORD = re.compile(r'"((?:[^"\\]|\\.)*)"')


def name_of(words: tuple[Any, ...]) -> str:
    """``CONFIG GET`` and the like are two words, however the client splits them."""
    first = " ".join(text(word) for word in words[:2]).upper().split()
    return " ".join(first[: 2 if first[0] in _TWO_WORDS else 1])


def text(word: Any) -> str:
    return word.decode("latin-1") if isinstance(word, bytes) else str(word)


def keys_of(words: tuple[Any, ...]) -> list[str]:
    """The keys of a command of ours."""
    name = name_of(words)
    if name == "EVAL":
        return [text(key) for key in words[3 : 3 + int(words[2])]]
    if name == "XREAD":
        at = [text(word).upper() for word in words].index("STREAMS") + 1
        return [text(key) for key in words[at : at + (len(words) - at) // 2]]
    keyless = {"WAIT", "INFO", "CONFIG GET", "PING", "MULTI", "EXEC", "UNWATCH"}
    return [] if name in keyless | CONNECTING else [text(words[1])]


@contextmanager
def sent(patch: pytest.MonkeyPatch) -> Iterator[list[tuple[Any, ...]]]:
    """Every command that is put on a wire, by us or by redis-py."""
    recorded: list[tuple[Any, ...]] = []
    pack = connection.AbstractConnection.pack_command

    def record(self: Any, *words: Any) -> Any:
        recorded.append(words)
        return pack(self, *words)

    ours: Callable[[tuple[Any, ...]], bytes] = vars(link)["pack_command"]

    def record_ours(words: tuple[Any, ...]) -> bytes:
        recorded.append(words)
        return ours(words)

    with patch.context() as inside:
        inside.setattr(connection.AbstractConnection, "pack_command", record)
        inside.setattr(link, "pack_command", record_ours)
        yield recorded


@contextmanager
def monitored(port: int) -> Iterator[list[tuple[str, list[str]]]]:
    """What a server executes, as it says: who (``lua`` for scripts), and the words."""
    lines: list[tuple[str, list[str]]] = []
    link = socket.create_connection(("127.0.0.1", port))
    link.sendall(b"MONITOR\r\n")
    assert link.recv(5) == b"+OK\r\n"

    def listen() -> None:
        data = b""
        while some := link.recv(1 << 20):
            *whole, data = (data + some).split(b"\r\n")
            for line in whole:
                found = re.match(r"\+[\d.]+ \[\d+ ([^\]]+)\] (.*)", line.decode("latin-1"))
                if found:
                    lines.append((found[1], _WORD.findall(found[2])))

    thread = threading.Thread(target=listen)
    thread.start()
    try:
        yield lines
    finally:
        link.shutdown(socket.SHUT_RDWR)
        thread.join()
        link.close()


def use_everything(place: Place, make: Make) -> None:
    """Every call that a storage has, with every kind of argument."""
    prefix = secrets.token_hex(4)
    driver = make(place, prefix=prefix)
    other = TopicPartition("other", 3)
    for number in range(5):
        driver.append(batch_of(b"%d" % number), BASE + number * 1000)
        driver.append(batch_of(b"a", b"b"), key=other)
    driver.append(batch_of(bytes(LARGE)), key=other)
    driver.append(batch_of(bytes(LARGE)), key=KEY)
    for sequence in (1, 2, 2, 9):
        data = batches.numbered(bytes(batch_of(b"x").data), 5, 0, sequence)
        try:
            driver.append(batches.parse(data))
        except PortaskError:
            continue
    driver._wait(lambda done: driver.storage.resume(KEY, 5, 0, 9, lambda error: done(None, error)))
    for when in (EARLIEST, LATEST, BASE + 2500):
        driver.lookup(when)
    driver.read(0)
    driver.storage.trim(KEY, before=3)
    driver.storage.trim(KEY, max_bytes=100)
    for each in (driver, make(place, prefix=prefix)):
        each._wait(lambda done, each=each: each.storage.begin("g", KEY, b"s", 5, done))
        each._wait(lambda done, each=each: each.storage.claim("g", KEY, 3, done))
        each._wait(lambda done, each=each: _report(each, done))
        each.storage._sharing.renew()
        each.storage.report("g", KEY, (b"rest", 1), (0, 0, 0, 0), None)
        each.append(batch_of(b"news"))
    until(lambda: driver.storage._news.others)
    each._wait(lambda done: each.storage.declare("made", 2, done))
    until(lambda: driver.storage.poll() or "made" in driver.storage.topics())
    assert driver._wait(driver.storage.group_parts)
    assert driver._wait(lambda done: driver.storage.drop_group("g", done))
    driver.lookup(EARLIEST)
    driver.storage.close()
    again = make(place, prefix=prefix, wait_replicas=1, timeout_s=0.3, attempt_s=0.1)
    assert {KEY, other} <= set(again.storage.partitions())
    try:
        again.append(batch_of(b"on a replica"))  # the cluster has some
    except StorageError:
        assert place.kind != "cluster"


def _report(driver: Any, done: Any) -> None:
    driver.storage.report("g", KEY, (b"state", 0), (1, 0, 0, 0), lambda error: done(None, error))


def test_nothing_else_is_sent(place: Place, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    with sent(monkeypatch) as recorded:
        use_everything(place, make)
    names = {name_of(words) for words in recorded}
    assert names <= COMMANDS | CONNECTING, names - COMMANDS - CONNECTING
    assert not any(name_of(words) == "HELLO" for words in recorded), "RESP2, for Dragonfly's sake"
    for words in recorded:
        keys = keys_of(words)
        tags = {tuple(_TAG.findall(key)) for key in keys}
        assert len(tags) <= 1, keys
        assert all(len(tag) == 1 for tag in tags), keys
        if name_of(words) == "XREAD":
            block = [text(word).upper() for word in words]
            assert 1000 <= int(block[block.index("BLOCK") + 1]) <= 5000
            assert "+" not in block
            assert len(keys) == 1, "one stream a command"


def test_dragonfly_is_sent_no_transactions(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it would do with them nobody looked at."""

    async def as_dragonfly(*_: Any) -> str:
        return "dragonfly 1.0, durability unknown"

    monkeypatch.setattr(durability, "read", as_dragonfly)
    with sent(monkeypatch) as recorded:
        driver = make(place_of("valkey"))
        for _ in range(3):
            driver.append(batch_of(bytes(3 * LARGE)))
    assert not {name_of(words) for words in recorded} & {"MULTI", "WATCH", "EXEC"}


@pytest.mark.parametrize("kind", ["valkey", "redis"])
def test_scripts_call_nothing_else_and_only_keys_that_they_declare(kind: str, make: Make) -> None:
    place = place_of(kind)
    with monitored(place.ports[0]) as lines:
        use_everything(place, make)
        place.ask("ECHO", "the end")
    declared: list[str] = []
    called: set[str] = set()
    for who, words in lines:
        name = words[0].upper()
        if who != "lua":
            if name == "EVAL":
                assert not words[1].startswith("#!"), "no shebang"
                declared = words[3 : 3 + int(words[2])]
            continue
        called.add(name)
        if name != "TIME":
            assert words[1] in declared, words[:2]
    assert called <= SCRIPTED, called - SCRIPTED
    assert {"XADD", "XRANGE", "XTRIM", "SET", "GET"} <= called, "the test uses little"


def test_what_is_listed_is_needed(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lists say what is sent, and not what might be."""
    place = place_of("valkey")
    with sent(monkeypatch) as recorded, monitored(place.ports[0]) as lines:
        use_everything(place, make)
        place.ask("ECHO", "the end")
    assert {name_of(words) for words in recorded} >= COMMANDS
    assert {words[0].upper() for who, words in lines if who == "lua"} >= SCRIPTED
