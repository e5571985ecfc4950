"""Keeps a client connected: dials, hands links over, notices their loss, reconnects, gives up, says goodbye.

One task a client does the reconnecting. A link is handed over once its handshake is complete; then
subscriptions are made again first and publishing channels after them, so that what is sent again is also
received.

A broker that says DRAIN is left in order: nothing new goes there, the acks that are due are waited for, DRAIN
is said in return, and the next address in the list is tried first.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from portask.client.backoff import Backoff
from portask.client.encryption import Encryption, hint_of, why
from portask.client.link import Link
from portask.client.options import GOODBYE, Address, Options
from portask.client.publisher import Publisher
from portask.client.subscriber import Subscriber
from portask.errors import (
    AuthenticationFailed,
    ConnectFailed,
    Draining,
    NotConnected,
    PortaskError,
    RequestTimeout,
    TlsFailed,
)
from portask.wire import control
from portask.wire.frames import REPLY, Frame, Opcode

log = logging.getLogger("portask.client")


class Connector:
    """Belongs to one client; owns its links.

    Attributes:
        broker: What the present broker said of itself, or the last one.
        link: The present one, or the last.
    """

    broker: control.Welcome

    def __init__(
        self,
        addresses: Sequence[Address],
        options: Options,
        publisher: Publisher,
        subscriber: Subscriber,
        encryption: Encryption | None = None,
    ) -> None:
        self.link: Link | None = None
        self._addresses = list(addresses)
        self._options = options
        self._encryption = encryption
        self._loop = asyncio.get_running_loop()
        self._publisher = publisher
        self._subscriber = subscriber
        self._up = asyncio.Event()
        self._since = 0.0
        self._over: PortaskError | None = None
        self._farewell: asyncio.Future[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._handlers: dict[int, Callable[[Link, Frame], None]] = {
            Opcode.PUBACK: publisher.puback,
            Opcode.DELIVER: subscriber.deliver,
            Opcode.SUBSCRIBE: subscriber.assigned,
            Opcode.ERROR: publisher.refused,
            Opcode.DRAIN: self._drained,
        }

    # ── connecting ────────────────────────────────────────────────────────────────────────────────────────────────

    async def dial(self) -> Link:
        """A link whose handshake is complete; one round over the addresses.

        Raises:
            AuthenticationFailed: none let us in, and at least one does not know who we are.
            TlsFailed: likewise, and with at least one of them TLS could not be agreed on.
            ConnectFailed: none answered.
        """
        reasons = []
        kind: type[PortaskError] = ConnectFailed
        for _ in range(len(self._addresses)):
            address = self._addresses[0]
            try:
                return await self._dial(address)
            except TimeoutError:
                reasons.append(f"{address} did not answer within {self._options.connect_timeout:g} s")
            except OSError as error:
                if isinstance(error, ssl.SSLError) and kind is ConnectFailed:
                    kind = TlsFailed
                reasons.append(f"{address}: {why(error)}")
            except AuthenticationFailed as error:
                kind = AuthenticationFailed
                reasons.append(f"{address}: {error}")
            except PortaskError as error:
                hint = hint_of(address) if isinstance(error, NotConnected) else ""
                reasons.append(f"{address}: {error}{hint}")
            self._next_address()
        raise kind("cannot connect: " + "; ".join(reasons))

    async def _dial(self, address: Address) -> Link:
        link = Link(
            address, self._options, on_frame=self._dispatch, on_lost=self._lost, on_draining=self._leave
        )
        try:
            async with asyncio.timeout(self._options.connect_timeout):
                more: dict[str, Any] = {}
                if address.tls and self._encryption is not None:
                    more["ssl"] = self._encryption.context()
                    more["server_hostname"] = self._options.server_name or address.host
                await self._loop.create_connection(lambda: link, address.host, address.port, **more)
                await link.welcomed
        except BaseException:
            link.abort(NotConnected(f"{address} was given up"))
            raise
        return link

    def _next_address(self) -> None:
        self._addresses.append(self._addresses.pop(0))

    def begin(self, link: Link) -> None:
        """The first link: uses it, and replaces it whenever it is lost."""
        self._adopt(link)
        self._spawn(self._watch(link))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _adopt(self, link: Link) -> None:
        self.link = link
        self.broker = link.welcomed.result()
        self._since = self._loop.time()
        if link.lost is None:
            self._subscriber.link_up(link)
            self._publisher.link_up(link)
            self._up.set()

    async def _watch(self, link: Link) -> None:
        try:
            await self._supervise(link)
        except Exception as bug:
            log.exception("reconnecting failed for a reason of our own")
            self._give_up(NotConnected(f"reconnecting failed: {bug!r}"))

    async def _supervise(self, link: Link) -> None:
        options = self._options
        backoff = Backoff(
            options.reconnect_delay,
            options.reconnect_max_delay,
            limit=options.reconnect_attempts,
            deadline=options.reconnect_deadline,
        )
        while True:
            await asyncio.shield(link.over)  # being cancelled must not cancel what others wait for
            reason = link.lost or NotConnected("the connection is lost")
            if self._farewell is not None or self._over is not None:
                return
            if not options.reconnect:
                self._give_up(reason)
                return
            log.info("%s; reconnecting", reason)
            if self._loop.time() - self._since > options.reconnect_max_delay:
                backoff.reset()
            found = await self._reconnect(backoff, reason)
            if found is None:
                return
            log.info("connected to %s again", found.address)
            link = found
            self._adopt(link)

    async def _reconnect(self, backoff: Backoff, reason: PortaskError) -> Link | None:
        while True:
            delay = backoff.next_delay(self._loop.time())
            if delay is None:
                attempts = backoff.attempts
                self._give_up(NotConnected(f"gave up after {attempts} attempts to reconnect: {reason}"))
                return None
            await asyncio.sleep(delay)
            try:
                return await self.dial()
            except ConnectFailed as failed:
                reason = failed
            except AuthenticationFailed as failed:
                self._give_up(failed)  # asking again would not make us known
                return None

    # ── what links say ────────────────────────────────────────────────────────────────────────────────────────────

    def _dispatch(self, link: Link, frame: Frame) -> None:
        """A frame that answers no request that still waits; what has no handler here came too late."""
        if link is self.link:
            handler = self._handlers.get(frame.opcode)
            if handler is not None:
                handler(link, frame)

    def _lost(self, link: Link) -> None:
        if link is self.link:
            self._up.clear()
            self._publisher.link_lost()
            self._subscriber.link_lost()

    def _drained(self, link: Link, frame: Frame) -> None:
        """DRAIN: the answer to ours, or the broker is going away."""
        if self._farewell is None:
            link.begin_draining()
            if frame.flags & REPLY:
                link.close()  # it answers our DRAIN: nothing more will come
        elif not self._farewell.done():
            self._farewell.set_result(None)

    def _leave(self, link: Link) -> None:
        if self._farewell is None:
            log.info("%s is going away", link.address)
            self._up.clear()
            self._next_address()
            self._spawn(self._leave_in_order(link))

    async def _leave_in_order(self, link: Link) -> None:
        try:
            async with asyncio.timeout(min(GOODBYE, self._options.request_timeout)):
                await self._publisher.quiet()
                self._say_drain(link)
                await asyncio.shield(link.over)
        except TimeoutError:
            link.close()

    def _say_drain(self, link: Link) -> None:
        if link.alive:
            for subscription in self._subscriber.subscriptions():
                subscription.acknowledge()
            link.send(Opcode.DRAIN)
            link.write()

    # ── using ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def check_open(self) -> None:
        """Raises `NotConnected` once the client is closed or gave up."""
        if self._over is not None:
            raise NotConnected(str(self._over))

    async def usable(self, deadline: float) -> Link:
        """The present link, as soon as there is one.

        Raises:
            RequestTimeout: there was none by ``deadline``, in the loop's time.
            NotConnected: the client is closed or gave up.
        """
        while True:
            self.check_open()
            if self.link is not None and self.link.usable:
                return self.link
            self._up.clear()
            try:
                async with asyncio.timeout_at(deadline):
                    await self._up.wait()
            except TimeoutError:
                text = "no connection came back before the deadline; the request was not sent"
                raise RequestTimeout(text) from None

    async def ask(self, opcode: int, body: bytes, about: str) -> Frame:
        """A request that may be repeated: asked again when the link is lost, within one deadline.

        Raises:
            PortaskError: what the broker answered, or as `usable`.
        """
        deadline = self._loop.time() + self._options.request_timeout
        while True:
            link = await self.usable(deadline)
            left = max(0.001, deadline - self._loop.time())
            try:
                return await link.request(opcode, body, channel=0, timeout=left, about=about)
            except NotConnected:
                if not self._options.reconnect:
                    raise
            except Draining:
                link.begin_draining()

    # ── the end ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _give_up(self, error: PortaskError) -> None:
        log.error("%s", error)
        self._finish(error, error)

    def _finish(self, error: PortaskError | None, reason: PortaskError) -> None:
        if self._over is None:
            self._over = reason
            self._publisher.fail(reason)
            self._subscriber.end(error, reason)
            self._up.set()  # whoever waits for a link learns the reason

    async def close(self) -> None:
        """Flushes, says goodbye, closes.

        Raises:
            PortaskError: a publish failed that nobody looked at; everything is closed nevertheless.
        """
        self._publisher.closing = True
        failure: PortaskError | None = None
        try:
            async with asyncio.timeout(self._options.request_timeout):
                await self._publisher.flush()
        except TimeoutError:
            failure = RequestTimeout("not everything was acknowledged before the client was closed")
        except PortaskError as error:
            failure = error
        await self._say_goodbye()
        self._finish(None, NotConnected("the client is closed"))
        if self.link is not None:
            await self._close(self.link)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if failure is not None:
            raise failure

    async def _say_goodbye(self) -> None:
        self._farewell = farewell = self._loop.create_future()
        link = self.link
        if link is not None and link.usable:
            self._say_drain(link)
            timeout = min(GOODBYE, self._options.request_timeout)
            await asyncio.wait([farewell, link.over], timeout=timeout, return_when="FIRST_COMPLETED")

    async def _close(self, link: Link) -> None:
        link.close()
        await asyncio.wait([link.over], timeout=min(GOODBYE, self._options.request_timeout))
        link.abort(NotConnected("the client is closed"))
        await asyncio.wait([link.over], timeout=1)
