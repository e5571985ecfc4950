"""How work gets to the servers and its outcome back: two threads, and per node two lanes of pipelines.

The broker's thread hands over what a turn brought, all at once (`Lanes.submit`), and takes outcomes with
`Completions.take` once it was notified. Everything else here happens on an event loop in a thread of its own.

**Writes clock themselves.** A lane has one pipeline of writes under way, with at most one write a partition in it;
what is appended meanwhile waits, is joined, and goes with the next one. So an append waits for one round trip at most
before it is sent (and for ``linger``, if that is set), batches grow with the load, and the order within a partition
holds whatever fails. Requests that are no appends (reads, look-ups, trims, group state) go in the order in which they
were made, on the lane's other pipeline.

**Trying again.** A failure that may pass is tried again after a growing, jittered delay until the deadline of what
waits for it. Writes are numbered and stored once however often they are sent; all other requests may be repeated by
nature.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import msgspec
import structlog

from portask.contracts import Compression
from portask.errors import PortaskError, StorageError
from portask.messages import TopicPartition
from portask.storage.gathering import packer
from portask_variants.storage.redis_streams.failures import NotReplicated, explain, is_passing
from portask_variants.storage.redis_streams.lines import Append, Line, Write
from portask_variants.storage.redis_streams.link import Link, ServerLink
from portask_variants.storage.redis_streams.outcomes import Ask, Call, Completions
from portask_variants.storage.redis_streams.transactions import Transactions

log = structlog.get_logger("portask.storage")

_FIRST_DELAY = 0.02
_LONGEST_DELAY = 1.0
_MOST_ASKS = 64
"""Requests in one pipeline."""
_MOST_LINES = 256
"""Writes in one pipeline."""
_NEVER = StorageError("there was room")


class Settings(msgspec.Struct, frozen=True):
    """Times in seconds, sizes in bytes.

    Attributes:
        server: For people.
        timeout: From a request to its outcome, all attempts included.
        attempt: One attempt.
        linger: How long an append may wait for company while nothing is under way.
        coalesce: Target size of batches that are joined from small ones.
        write_bytes: Batches of one partition in one write, about.
        pipeline_bytes: Batches in one pipeline, about.
        replicas: How many must have a write before it is acknowledged.
    """

    server: str
    timeout: float
    attempt: float
    linger: float
    coalesce: int
    write_bytes: int
    pipeline_bytes: int
    replicas: int


class Lanes:
    """Belongs to one storage. `submit` and `close` are the broker's thread's; all else is the loop's.

    Attributes:
        completions: Outcomes for the broker's thread.
        on_stored: Told the next offset and the bytes of a partition that was written; on the loop's thread.
        retries: Pipelines and requests that were tried again.
        expired: Given up after all.
        lost: Offsets that were acknowledged here and given out again: records that the server forgot.
    """

    def __init__(
        self,
        settings: Settings,
        compression: Compression | None,
        settled: Callable[[Line, int, int], None],
        went_back: Callable[[Line, int], None],
    ) -> None:
        """Both are called on the broker's thread.

        ``settled(line, appends, bytes)``: those were called back. ``went_back(line, offset)``: the server forgot what
        it had acknowledged, from that offset on.
        """
        self.completions = Completions()
        self._settled = settled
        self._went_back = went_back
        self.load = 0.0
        self.retries = self.expired = self.lost = 0
        self._settings = settings
        self._finish = packer(compression, lambda: self.load) if compression is not None else None
        self.on_stored: Callable[[TopicPartition, int, int], None] = lambda *_: None
        self._link: Link
        self._large: Transactions | None = None
        self._prepare: Callable[[Sequence[Line]], Coroutine[Any, Any, None]]
        self._handed: deque[Ask | tuple[Line, list[Append], int]] = deque()
        self._signalled = False
        self._ready: dict[Line, None] = {}
        self._writing: set[str] = set()
        self._asks: dict[str, deque[Ask]] = {}
        self._asking: set[str] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._over = False
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="portask-redis", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()

    # ── the broker's thread ───────────────────────────────────────────────────────────────────────────────

    def call(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Runs ``work`` on the loop, and waits for it."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs ``work`` on the loop; does not wait for it."""
        self.loop.call_soon_threadsafe(self.spawn, work)

    def submit(self, work: Ask | tuple[Line, list[Append], int]) -> None:
        """Hands over a request, or appends to one partition. Costs a wake-up of the loop, one for all of a turn."""
        self._handed.append(work)
        if not self._signalled:
            self._signalled = True
            self.loop.call_soon_threadsafe(self._take)

    def close(self, patience: float, farewell: Coroutine[Any, Any, None]) -> None:
        """Lets what is under way end, for so long, then ``farewell``; then everything that waits fails."""
        if not self._over:
            self.call(self._shut_down(patience, farewell))
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join()

    # ── the loop's thread ─────────────────────────────────────────────────────────────────────────────────

    def begin(self, link: Link, prepare: Callable[[Sequence[Line]], Coroutine[Any, Any, None]]) -> None:
        """Work may flow; ``prepare`` is awaited with lines before they are written."""
        self._link = link
        self._prepare = prepare
        self._large = Transactions(link) if isinstance(link, ServerLink) else None

    def by_script_only(self) -> None:
        """No transactions: on a server of which only the scripts' commands are known to be answered as here."""
        self._large = None

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Runs ``work`` beside everything else, until the end."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _take(self) -> None:
        self._signalled = False  # first: what comes from here on signals again
        deadline = self.loop.time() + self._settings.timeout
        handed = self._handed
        while handed:
            work = handed.popleft()
            if isinstance(work, Ask):
                work.deadline = deadline
                self._ask(work)
            else:
                line, appends, size = work
                line.queue.append((appends, size, deadline))
                self._ready[line] = None
        self._kick()

    def _kick(self) -> None:
        """Starts the lanes that have something to write and do not."""
        now = self.loop.time()
        for line in self._ready if not self._over else ():
            lane = self._link.lane(line.keys.log)
            if lane not in self._writing and line.not_before <= now:
                self._writing.add(lane)
                self.spawn(self._write(lane))

    async def _write(self, lane: str) -> None:
        """Pipelines of writes to one node, until nothing waits for it."""
        failures = 0
        try:
            while True:
                if self._settings.linger:
                    await asyncio.sleep(self._settings.linger)
                writes = self._collect(lane)
                if not writes:
                    return
                failure = await self._send(lane, writes)
                failures = failures + 1 if failure else 0
                if failure:
                    await self._pause(failures, min(write.deadline for write in writes))
        finally:
            self._writing.discard(lane)
            self._kick()  # a partition may belong to another node than before

    def _collect(self, lane: str) -> list[Write]:
        settings, now = self._settings, self.loop.time()
        writes: list[Write] = []
        size = 0
        for line in list(self._ready):
            if line.not_before <= now and self._link.lane(line.keys.log) == lane:
                del self._ready[line]
                write = line.next_write(settings.write_bytes, settings.coalesce, self._finish)
                writes.append(write)
                size += write.size
                if size >= settings.pipeline_bytes or len(writes) >= _MOST_LINES:
                    break
        return writes

    async def _exchange(self, lane: str, writes: list[Write], within: float) -> list[Any]:
        """A reply or an exception for each write: large ones by a transaction if that can be, others by the script."""
        replicas = self._settings.replicas
        found: dict[Write, Any] = {}
        large = self._large
        if large is not None and not replicas:
            fitting = [write for write in writes if large.fits(write)]
            if fitting:
                answers = await large.run(fitting, min(within, self._settings.attempt))
                found = {write: answer for write, answer in zip(fitting, answers, strict=True) if answer}
        rest = [write for write in writes if write not in found]
        if rest:
            if large is not None:
                large.touched([write.line for write in rest])
            patience = max(1, int(min(within, self._settings.attempt) * 500))
            after = ("WAIT", replicas, patience) if replicas else ()
            replies = await self._link.run(lane, [write.script() for write in rest], within, after)
            if replicas:
                have = replies.pop()
                if isinstance(have, Exception) or have < replicas:
                    text = f"{have} of {replicas} replicas have what was written"
                    replies = [NotReplicated(text) if isinstance(each, list) else each for each in replies]
            found.update(zip(rest, replies, strict=True))
        return [found[write] for write in writes]

    async def _send(self, lane: str, writes: list[Write]) -> bool:
        """One attempt; what failed is ready again. Whether all failed."""
        within = max(0.001, min(write.deadline for write in writes) - self.loop.time())
        replies: list[Any]
        try:
            await self._prepare([write.line for write in writes])
            replies = await self._exchange(lane, writes, within)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told to those who wait
            replies = [error] * len(writes)
        failed = 0
        for write, reply in zip(writes, replies, strict=True):
            failed += self._settle(write, reply)
        return failed == len(writes)

    def _settle(self, write: Write, reply: Any) -> bool:
        """Calls back, or makes the write ready again; whether it failed in passing."""
        line = write.line
        again = False
        if not isinstance(reply, Exception) and (len(reply) != 4 or int(reply[3]) != write.number):
            reply = StorageError(f"the answer {reply!r} belongs to something else")
        if isinstance(reply, Exception):
            write.attempts += 1
            if write.reason is None or not isinstance(reply, TimeoutError):
                write.reason = reply
            again = is_passing(reply)
            now = self.loop.time()
            if again and now < write.deadline and not self._over:
                self.retries += 1
                line.not_before = now + (_delay(write.attempts) if isinstance(reply, NotReplicated) else 0)
                if line.not_before > now:
                    self.loop.call_later(line.not_before - now, self._kick)
            else:
                self.expired += again
                waited = self._settings.timeout if again else None
                error = explain(write.reason if again else reply, self._settings.server, waited)
                self._finished(line, write, (write.fail, error))
        else:
            outcomes, following, size, _ = (word.decode() for word in reply)
            full = explain(Exception("OOM"), self._settings.server) if "!" in outcomes else _NEVER
            self.on_stored(line.key, int(following), int(size))
            told = outcomes.split()
            calls: list[Call] = [(_stored, line, int(following), int(size)), (write.tell, told, full)]
            first = next((int(outcome) for outcome in told if outcome.isdigit()), None)
            if first is not None:
                if first < line.acked:
                    self.lost += line.acked - first
                    calls.insert(0, (self._went_back, line, first))
                line.acked = int(following)
            self._finished(line, write, *calls)
        if line.busy:
            self._ready[line] = None
        return again

    def _finished(self, line: Line, write: Write, *calls: Call) -> None:
        line.write = None
        line.not_before = 0.0
        self.completions.put([*calls, (self._settled, line, len(write), write.given)])

    async def _pause(self, failures: int, deadline: float) -> None:
        await asyncio.sleep(min(_delay(failures), max(0.0, deadline - self.loop.time())))

    # ── requests that are no appends ──────────────────────────────────────────────────────────────────────

    def _ask(self, ask: Ask) -> None:
        lane = self._link.lane(ask.key)
        queue = self._asks.setdefault(lane, deque())
        queue.append(ask)
        if lane not in self._asking:
            self._asking.add(lane)
            self.spawn(self._answer(lane, queue))

    async def _answer(self, lane: str, queue: deque[Ask]) -> None:
        failures = 0
        try:
            while queue:
                asks = [queue.popleft() for _ in range(min(len(queue), _MOST_ASKS))]
                again = await self._try(lane, asks)
                queue.extendleft(reversed(again))
                failures = failures + 1 if again else 0
                if again:
                    await self._pause(failures, min(ask.deadline for ask in again))
        finally:
            self._asking.discard(lane)

    async def _try(self, lane: str, asks: list[Ask]) -> list[Ask]:
        """One attempt; those to be tried again. Of several, those behind one that failed are repeated with it."""
        within = max(0.001, min(ask.deadline for ask in asks) - self.loop.time())
        commands = [command for ask in asks for command in ask.commands]
        replies: list[Any]
        try:
            replies = await self._link.run(lane, commands, within)
        except Exception as error:  # noqa: BLE001 - told to those who wait
            replies = [error] * len(commands)
        at = 0
        for number, ask in enumerate(asks):
            mine = replies[at : at + len(ask.commands)]
            at += len(ask.commands)
            failure = next((reply for reply in mine if isinstance(reply, Exception)), None)
            if failure is None:
                self._done(ask, mine)
            elif not is_passing(failure):
                self.completions.put(ask.fail(explain(failure, self._settings.server)))
            elif self.loop.time() < ask.deadline and not self._over:
                self.retries += 1
                return asks[number:]
            else:
                self.expired += 1
                self.completions.put(
                    ask.fail(explain(failure, self._settings.server, self._settings.timeout))
                )
        return []

    def _done(self, ask: Ask, replies: list[Any]) -> None:
        try:
            calls = ask.finish(replies)
        except PortaskError as error:
            calls = ask.fail(error)
        except Exception as error:
            log.exception("an answer was not understood", server=self._settings.server)
            calls = ask.fail(
                StorageError(f"{self._settings.server} gave an answer that is not understood: {error!r}")
            )
        self.completions.put(calls)

    # ── the end ───────────────────────────────────────────────────────────────────────────────────────────

    async def _shut_down(self, patience: float, farewell: Coroutine[Any, Any, None]) -> None:
        self._take()
        deadline = self.loop.time() + patience
        while (self._writing or self._asking) and self.loop.time() < deadline:  # noqa: ASYNC110 - once
            await asyncio.sleep(0.002)
        try:
            async with asyncio.timeout_at(max(deadline, self.loop.time() + 0.2)):
                await farewell
        except Exception as error:  # noqa: BLE001 - it is over anyway
            log.debug("no farewell", server=self._settings.server, reason=str(error))
        self._over = True
        while self._tasks:  # again and again: redis-py loses a cancellation now and then
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks, timeout=0.1)
        gone = StorageError(f"the storage on {self._settings.server} is closed")
        for line in self._ready:
            while line.busy:
                write = line.next_write(1 << 62, 0, None)
                self._finished(line, write, (write.fail, gone))
        for queue in self._asks.values():
            for ask in queue:
                self.completions.put(ask.fail(gone))
        if hasattr(self, "_link"):
            await self._link.close()
        if self._large is not None:
            await self._large.close()
        await asyncio.sleep(
            0.01
        )  # transports say their last in callbacks; those of TLS take several rounds for it


def _delay(failures: int) -> float:
    growing: float = _FIRST_DELAY * 2 ** min(failures, 10)
    return random.uniform(0.5, 1) * min(_LONGEST_DELAY, growing)


def _stored(line: Line, following: int, size: int) -> None:
    line.next = max(line.next, following)
    line.size = size
