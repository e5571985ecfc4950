"""What is particular to `native-threads`: steps without the interpreter, and threads that end before it does."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import crc32c
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from portask import registry
from portask.contracts import NativeSteps
from portask.errors import WorkersFull


def made(**options: Any) -> Any:
    return registry.get("workers", "native-threads").make(**options)


@contextmanager
def workers(**options: Any) -> Iterator[Any]:
    made_ones = made(**options)
    try:
        yield made_ones
    finally:
        made_ones.close()


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def outcomes(made_ones: Any, *steps: Callable[[], Any]) -> list[Any]:
    """Results and errors of the steps, in order."""
    found: list[Any] = []
    for step in steps:
        made_ones.submit(step, lambda result, error: found.append(error or result))
    until(lambda: made_ones.poll() * 0 or len(found) == len(steps))
    return found


DATA = b"".join(b"record %d of a batch that compresses; " % n for n in range(500))


# ── steps of its own ──────────────────────────────────────────────────────────────────────────────────────


def test_steps_do_what_the_libraries_do() -> None:
    with workers() as some:
        assert isinstance(some, NativeSteps)
        packed, total = outcomes(some, some.zstd_compress(DATA, 5), some.crc32c(DATA))
        assert len(packed) < len(DATA)
        assert zstandard.ZstdDecompressor().decompress(packed) == DATA
        assert zstandard.frame_content_size(packed) == len(DATA)
        assert total == crc32c.crc32c(DATA)
        theirs = zstandard.ZstdCompressor(level=3).compress(DATA)
        assert outcomes(some, some.zstd_decompress(theirs, len(DATA))) == [DATA]


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_contiguous_buffer(kind: type[Any]) -> None:
    with workers() as some:
        packed, empty = outcomes(some, some.zstd_compress(kind(DATA)), some.zstd_compress(kind(b"")))
        raw, nothing = outcomes(
            some, some.zstd_decompress(kind(packed), len(DATA)), some.zstd_decompress(empty, 0)
        )
        assert (raw, nothing) == (DATA, b"")
        with pytest.raises(BufferError, match="contiguous"):
            some.crc32c(memoryview(DATA)[::2])
        with pytest.raises(TypeError):
            some.crc32c("text")


def test_called_they_do_the_same_at_once_and_on_other_workers() -> None:
    steps = made()
    packed = steps.zstd_compress(DATA)()
    assert steps.zstd_decompress(packed, len(DATA))() == DATA
    assert steps.crc32c(DATA)() == crc32c.crc32c(DATA)
    with pytest.raises(ValueError, match="no zstd frame of 5 raw bytes"):
        steps.zstd_decompress(packed, 5)()
    for name in ("inline", "threads"):
        other = registry.get("workers", name).make()
        assert outcomes(other, steps.zstd_compress(DATA)) == [packed]
        other.close()


@pytest.mark.parametrize(
    ("data", "length", "complaint"),
    [
        (b"no frame", 10, "no zstd frame of 10 raw bytes"),
        (zstandard.compress(DATA), len(DATA) - 1, "no zstd frame of"),
        (zstandard.compress(DATA), len(DATA) + 1, f"holds {len(DATA)} raw bytes, not {len(DATA) + 1}"),
        (zstandard.compress(DATA)[:-1], len(DATA), "no zstd frame of"),
        (zstandard.compress(bytes(1 << 30)), 1000, "no zstd frame of 1000 raw bytes"),  # a bomb
        (b"", 10, "zstd frame"),
    ],
    ids=["garbage", "longer", "shorter", "cut", "bomb", "empty"],
)
def test_what_is_no_such_frame_is_an_error_of_its_step_alone(
    data: bytes, length: int, complaint: str
) -> None:
    with workers(threads=1) as some:
        before, error, after = outcomes(
            some, some.crc32c(b"a"), some.zstd_decompress(data, length), some.crc32c(b"a")
        )
    assert isinstance(error, ValueError)
    assert complaint in str(error)
    assert before == after


@pytest.mark.parametrize("level", [-1 << 20, 23, 99])
def test_levels_that_zstd_has_not(level: int) -> None:
    with workers() as some, pytest.raises(ValueError, match=f"not {level}$"):
        some.zstd_compress(b"x", level)


@settings(max_examples=30, deadline=None)
@given(batches=st.lists(st.binary(max_size=3000), max_size=12), level=st.integers(-3, 6))
def test_everything_comes_back(batches: list[bytes], level: int) -> None:
    with workers(threads=2) as some:
        packed = outcomes(some, *(some.zstd_compress(data, level) for data in batches))
        raw = outcomes(
            some,
            *(some.zstd_decompress(each, len(data)) for each, data in zip(packed, batches, strict=True)),
        )
    assert raw == batches


# ── without the interpreter ───────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def greedy() -> Iterator[None]:
    """This thread gives the interpreter up only where it waits for something."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("greedy")
def test_steps_finish_beside_a_loop_that_never_gives_the_interpreter_up() -> None:
    told = threading.Event()
    some = made(threads=2, notify=told.set)
    try:
        found: list[Any] = []
        packed = zstandard.compress(DATA)
        for step in (some.zstd_compress(DATA), some.crc32c(DATA), some.zstd_decompress(packed, len(DATA))):
            some.submit(step, lambda result, error: found.append((result, error)))
        end = time.monotonic() + 20
        while len(found) < 3:
            some.poll()
            assert time.monotonic() < end, "they waited for the interpreter"
        assert not told.is_set(), "nobody else ran meanwhile: this shows what it says"
        assert [error for _, error in found] == [None] * 3
    finally:
        sys.setswitchinterval(0.005)
        some.close()


@pytest.mark.usefixtures("greedy")
def test_other_steps_wait_for_it() -> None:
    some = made(threads=2)
    try:
        some.submit(lambda: 1, lambda result, error: None)
        end = time.monotonic() + 0.1
        while time.monotonic() < end:
            assert some.poll() == 0
    finally:
        sys.setswitchinterval(0.005)
        some.close()


# ── the rest of the contract, as for `threads` ────────────────────────────────────────────────────────────


@settings(max_examples=30, deadline=None)
@given(
    limit=st.integers(1, 5),
    actions=st.lists(st.sampled_from(["submit", "native", "fail", "poll"]), max_size=30),
)
def test_any_order_of_calls(limit: int, actions: list[str]) -> None:
    with workers(limit=limit) as some:
        flight: deque[Any] = deque()
        got: list[Any] = []

        def step(number: int, fails: bool) -> int:
            if fails:
                raise LookupError(number)
            return number

        def done(result: Any, error: BaseException | None) -> None:
            got.append(result if error is None else ("failed", *error.args))

        def poll() -> None:
            before = len(got)
            assert some.poll() == len(got) - before
            for outcome in got[before:]:
                assert outcome == flight.popleft()

        for number, action in enumerate(actions):
            if action == "poll":
                poll()
                continue
            data = number.to_bytes(4, "big")
            what: Any = some.crc32c(data) if action == "native" else partial(step, number, action == "fail")
            expected = {
                "native": crc32c.crc32c(data),
                "submit": number,
                "fail": ("failed", number),
            }[action]
            if len(flight) == limit:
                with pytest.raises(WorkersFull, match="in flight"):
                    some.submit(what, done)
            else:
                some.submit(what, done)
                flight.append(expected)
        some.close()
        poll()
        assert not flight


@pytest.mark.parametrize("options", [{"limit": 0}, {"limit": -1}, {"threads": -1}])
def test_options_are_checked(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        made(**options)


def test_so_many_threads_run_at_once() -> None:
    barrier = threading.Barrier(3)
    with workers(threads=3) as some:
        assert len(set(outcomes(some, *[lambda: (barrier.wait(20), threading.get_ident())[1]] * 3))) == 3


def test_one_notification_may_stand_for_many_and_none_is_missing() -> None:
    told = threading.Event()
    some = made(limit=1000, notify=told.set)
    got: list[int] = []
    for _ in range(5):
        for _ in range(200):
            some.submit(some.crc32c(b"x"), lambda result, error: got.append(result))
        end = time.monotonic() + 20
        expected = len(got) + 200
        while len(got) < expected:
            assert told.wait(20), "results wait and nobody said so"
            told.clear()
            some.poll()
            assert time.monotonic() < end
    some.close()


@pytest.mark.parametrize("native", [False, True])
def test_a_notify_that_raises_is_reported_and_costs_no_result(
    native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda report: reported.append(report.exc_value))

    def notify() -> None:
        raise RuntimeError("planted")

    with workers(notify=notify) as some:
        for _ in range(2):
            assert outcomes(some, some.crc32c(b"x") if native else lambda: crc32c.crc32c(b"x"))
        until(lambda: reported)
    assert {str(error) for error in reported} == {"planted"}


def test_a_result_is_not_kept_alive() -> None:
    class Thing:
        pass

    with workers() as some:
        (thing,) = outcomes(some, Thing)
        died = weakref.ref(thing)
        del thing
        until(lambda: gc.collect() * 0 or died() is None)


def test_the_data_of_a_step_is_held_until_it_is_done() -> None:
    with workers(threads=1) as some:
        go_on = threading.Event()
        some.submit(lambda: go_on.wait(20), lambda result, error: None)
        data = bytearray(b"held")
        step = some.crc32c(data)
        found: list[Any] = []
        some.submit(step, lambda result, error: found.append(result))
        with pytest.raises(BufferError):
            data.append(1)
        del step
        go_on.set()
        until(lambda: some.poll() * 0 or found)
        assert found == [crc32c.crc32c(b"held")]
        until(lambda: not _is_held(data))


def _is_held(data: bytearray) -> bool:
    try:
        data.append(1)
    except BufferError:
        return True
    return False


def thread_count() -> int:
    with open("/proc/self/status", encoding="ascii") as status:  # noqa: PTH123 - a path of the kernel
        return int(next(line for line in status if line.startswith("Threads:")).split()[1])


def test_dropping_them_ends_their_threads() -> None:
    before = thread_count()
    some = made(threads=3, notify=lambda: None)
    assert thread_count() == before + 4
    del some
    gc.collect()
    until(lambda: thread_count() == before)


@pytest.mark.parametrize(
    "ending",
    [
        "",
        "del some",
        "some.close()",
        "import threading; threading.Thread(target=lambda: __import__('time').sleep(0.05)).start()",
        "raise SystemExit(0)",
    ],
)
def test_a_program_ends_quietly_however_it_leaves_them(ending: str) -> None:
    script = (
        "import time\n"
        "from portask_native.workers import thread_workers\n"
        "some = thread_workers(limit=100, threads=4, notify=lambda: None)\n"
        "for _ in range(40):\n"
        "    some.submit(lambda: time.sleep(0.001), print)\n"
        "    some.submit(some.zstd_compress(bytes(100_000)), print)\n"
        f"{ending}\n"
    )
    for _ in range(5):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", script],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
