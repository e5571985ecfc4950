"""The client's parts that need no broker: options, back-off, budget, partitioner, and what is exported."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any, get_type_hints

import pytest
from crc32c import crc32c
from hypothesis import given
from hypothesis import strategies as st

import portask
from portask import client as client_package
from portask import errors
from portask.client import Options, connect, partition_of
from portask.client.backoff import Backoff
from portask.client.budget import Budget
from portask.client.codecs import LoadMeter
from portask.client.options import Address, OptionsDict, parse_urls
from portask.errors import BufferExhausted, ConfigError, NotConnected, UnknownVariant, VariantError
from tests.conftest import RunningBroker

# ── what is exported ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_packages_export_what_they_promise() -> None:
    assert portask.__all__ == ["Message", "__version__", "connect", "errors", "sync", "trace_headers"]
    assert getattr(portask, "connect") is connect  # noqa: B009 - mypy knows the two as different things
    assert portask.errors is errors
    assert portask.sync.connect is not connect
    assert portask.__version__.count(".") == 2
    assert set(portask.__all__) <= set(dir(portask))
    assert all(hasattr(client_package, name) for name in client_package.__all__)
    with pytest.raises(AttributeError, match="nonsense"):
        _ = portask.nonsense


def test_importing_the_package_does_not_load_asyncio() -> None:
    late = "print('asyncio' in sys.modules)"
    script = f"import sys, portask; {late}; portask.connect; {late}"
    done = subprocess.run([sys.executable, "-c", script], check=True, timeout=30, capture_output=True)
    assert done.stdout == b"False\nTrue\n"


# ── options ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_keyword_arguments_are_the_options() -> None:
    assert get_type_hints(OptionsDict) == get_type_hints(Options)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("portask://host", Address("host", 7711)),
        ("portask://10.0.0.1:5", Address("10.0.0.1", 5)),
        ("portask://[::1]:9/", Address("::1", 9)),
    ],
)
def test_urls_are_read(url: str, address: Address) -> None:
    assert parse_urls(url) == [address]
    assert parse_urls([url, url]) == [address, address]


def test_one_url_may_name_several_brokers() -> None:
    found = [Address("a", 1), Address("::1", 2), Address("c", 7711)]
    assert parse_urls("portask://a:1,[::1]:2, c") == found
    assert parse_urls(["portask://a:1,[::1]:2", "portask://c/"]) == found


def test_addresses_are_written_as_urls_have_them() -> None:
    assert str(Address("::1", 9)) == "[::1]:9"
    assert str(Address("host", 9)) == "host:9"


@pytest.mark.parametrize(
    "url",
    ["", "host:1", "http://host", "portask://", "portask://host:x", "portask://host:99999", "portask://u:p@host",
     "portask://a:1,,b", "portask://a,u:p@b",
     "portask://host/path", "portask://host?a=b", "portask://[::1", []],
)  # fmt: skip
def test_wrong_urls_are_refused_at_once(url: Any) -> None:
    with pytest.raises(ConfigError):
        connect(url)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("request_timeout", 0), ("connect_timeout", -1), ("reconnect_delay", 0), ("linger_ms", -0.1),
        ("keepalive", -1), ("batch_bytes", 0), ("max_in_flight", 0), ("buffer_bytes", 5), ("max_frame", 100),
        ("request_timeout", float("nan")),
    ],
)  # fmt: skip
def test_wrong_options_are_refused_at_once_by_name(name: Any, value: Any) -> None:
    with pytest.raises(ConfigError, match=name):
        connect(**{name: value})
    with pytest.raises(TypeError, match="nonsense"):
        connect(nonsense=1)  # type: ignore[call-arg]


async def test_unknown_variants_are_refused(broker: RunningBroker) -> None:
    for options in ({"codec": "nonsense"}, {"compression": "nonsense"}):
        with pytest.raises(UnknownVariant, match="there is no"):
            await connect(broker.url, **options)  # type: ignore[arg-type]
    with pytest.raises((VariantError, TypeError)):
        await connect(broker.url, compression="never", compression_options={"nonsense": 1})


# ── back-off ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(st.floats(0.001, 10), st.floats(0.001, 100))
def test_delays_grow_to_their_limit_with_jitter(first: float, most: float) -> None:
    backoff = Backoff(first, most)
    assert backoff.next_delay(0) == 0
    bound = first
    for _ in range(20):
        delay = backoff.next_delay(0)
        assert delay is not None
        assert 0 <= delay <= max(bound, first)
        bound = min(bound * 2, most)
    backoff.reset()
    assert backoff.next_delay(0) == 0


def test_attempts_and_time_are_limited() -> None:
    backoff = Backoff(1, 1, limit=3)
    assert [backoff.next_delay(0) is None for _ in range(5)] == [False, False, False, True, True]
    backoff = Backoff(100, 100, deadline=10)
    assert backoff.next_delay(50) == 0
    assert (backoff.next_delay(59) or 0) <= 1
    assert backoff.next_delay(60) is None
    backoff.reset()
    assert backoff.next_delay(1000) == 0


# ── budget ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_budget_serves_those_who_wait_in_order() -> None:
    budget = Budget(10)
    budget.take(8)
    served: list[int] = []

    async def wait(size: int) -> None:
        await budget.wait(size, 5)
        served.append(size)

    tasks = [asyncio.create_task(wait(size)) for size in (6, 1, 3)]
    await asyncio.sleep(0)
    with pytest.raises(BufferExhausted):
        budget.take(1)  # there is room, but others wait for it
    budget.give(8)
    await asyncio.gather(*tasks)
    assert served == [6, 1, 3]
    assert budget.used == 10


async def test_a_budget_gives_up_in_time_and_on_cancelling() -> None:
    budget = Budget(10)
    budget.take(10)
    with pytest.raises(BufferExhausted, match=r"within 0\.01 s"):
        await budget.wait(1, 0.01)
    task = asyncio.create_task(budget.wait(5, 5))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    # Granted and cancelled in the same moment: what was granted goes back.
    task = asyncio.create_task(budget.wait(5, 5))
    await asyncio.sleep(0)
    budget.give(10)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert budget.used == 0
    budget.take(10)
    task = asyncio.create_task(budget.wait(1, 5))
    await asyncio.sleep(0)
    budget.fail(NotConnected("over"))
    with pytest.raises(NotConnected, match="over"):
        await task
    with pytest.raises(BufferExhausted, match="never fit"):
        await budget.wait(11, 5)


# ── the rest ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(st.binary(), st.integers(1, 1000))
def test_keys_choose_as_documented(key: bytes, partitions: int) -> None:
    assert partition_of(key, partitions) == crc32c(key) % partitions


def test_known_keys_stay_where_they_are() -> None:
    # The check value of CRC-32C (RFC 3720 §B.4 and the catalogues): clients in other languages must agree.
    assert [partition_of(key, 1000) for key in (b"", b"123456789")] == [0, 0xE3069283 % 1000]


def test_the_load_is_a_share() -> None:
    meter = LoadMeter()
    assert meter.load() == 0.0
    meter._since -= 1
    assert 0.0 <= meter.load() <= 1.0
