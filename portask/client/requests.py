"""Request and reply: a message with a return address, and the wait for what comes back to it.

A request is published like anything else, with two headers: ``reply-to`` names this client's inbox, ``correlation-id``
tells its requests apart. The inbox is subscribed to before the first request and kept, one a client; the broker stores
nothing of it and drops it with the connection (`portask.core.inboxes`). So a reply that comes while the connection is
lost is lost with it, and the request ends with `RequestTimeout`.

A topic does not know who will ever read it: that nobody answers shows only when the time is over. A request is not
delivered any more then (its TTL), so who comes late does no work that nobody waits for.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
from typing import TYPE_CHECKING

from portask.client.channel import too_large
from portask.client.codecs import as_message
from portask.client.results import Delivered
from portask.client.subscription import Subscription
from portask.core.topics import check_name
from portask.errors import BatchError, CodecError, NotConnected, PortaskError, RequestTimeout
from portask.messages import Buffer, Headers, Message, trace_headers
from portask.wire import inboxes
from portask.wire.frames import Opcode

if TYPE_CHECKING:
    from portask.client.client import Client
    from portask.client.connector import Connector
    from portask.client.publisher import Publisher

log = logging.getLogger("portask.client")

REPLY_TO = "reply-to"
CORRELATION_ID = "correlation-id"


class Requester:
    """Belongs to one client: its inbox, and who waits for what."""

    def __init__(self, client: Client, connector: Connector, publisher: Publisher) -> None:
        self._client = client
        self._connector = connector
        self._publisher = publisher
        self._inbox: Subscription | None = None
        self._reading: asyncio.Task[None] | None = None
        self._waiting: dict[str, asyncio.Future[Delivered]] = {}
        self._asked = 0

    async def request(self, topic: str, message: Message, partition: int | None, seconds: float) -> Delivered:
        """See `portask.client.Client.request`."""
        if not seconds > 0:
            raise ValueError(f"a timeout is a number of seconds above 0, not {seconds!r}")
        self._asked += 1
        number = str(self._asked)
        reply: asyncio.Future[Delivered] = asyncio.get_running_loop().create_future()
        self._waiting[number] = reply
        try:
            async with asyncio.timeout(seconds):
                inbox = await self._listen()
                headers = {**(message.headers or {}), REPLY_TO: inbox.filter, CORRELATION_ID: number}
                # whole seconds: each TTL has a producer of its own
                producer = self._client.default_producer(topic, math.ceil(seconds))
                await producer.put(
                    Message(message.payload, message.key, headers, message.timestamp), partition
                )
                return await reply
        except TimeoutError:
            raise RequestTimeout(
                f"nobody answered the request to {topic} within {seconds:g} s: see whether somebody subscribes to it"
            ) from None
        finally:
            del self._waiting[number]
            reply.cancel()

    async def _listen(self) -> Subscription:
        """The inbox, once the broker has it."""
        inbox = self._inbox
        if inbox is None:
            identity = self._connector.broker.identity  # an inbox is for whom it is named after
            name = f"{inboxes.PREFIX}{identity}{identity and '.'}{secrets.token_urlsafe(16)}"
            inbox = self._inbox = self._client.subscribe(name)
            self._reading = asyncio.create_task(self._read(inbox))
        return await inbox.start()

    async def _read(self, inbox: Subscription) -> None:
        over: PortaskError = NotConnected("the client is closed")
        while True:
            try:
                async for message in inbox:
                    self._take(message)
                break
            except (BatchError, CodecError) as error:
                log.warning("a reply cannot be read: %s", error)
            except PortaskError as error:
                over = error
                break
        if self._inbox is inbox:
            self._inbox = None
        for reply in self._waiting.values():
            if not reply.done():
                reply.set_exception(over)
                reply.exception()  # who waits may be waiting for something else yet

    def _take(self, message: Delivered) -> None:
        number = (message.headers or {}).get(CORRELATION_ID)
        reply = self._waiting.get(number) if isinstance(number, str) else None
        if reply is not None and not reply.done():  # otherwise it came too late, or is the second
            reply.set_result(message)

    async def respond(self, message: Delivered, payload: Buffer, headers: Headers | None) -> None:
        """See `portask.client.Client.respond`."""
        asked = message.headers or {}
        where = asked.get(REPLY_TO)
        if where is None:
            place = f"{message.topic}:{message.partition}@{message.offset}"
            raise ValueError(f"{place} asks for no reply: it has no {REPLY_TO} header")
        if isinstance(where, bytes):
            where = where.decode(errors="replace")
        check_name(where)  # others wrote it
        kept = {CORRELATION_ID: asked[CORRELATION_ID]} if CORRELATION_ID in asked else {}
        answer = as_message(payload, None, {**trace_headers(message), **kept, **(headers or {})}, 0)
        if not where.startswith(inboxes.PREFIX):
            await self._client.default_producer(where).put(answer)
            return
        self._connector.check_open()
        body = inboxes.pack(where, self._publisher.encoder.encode([answer]))
        if len(body) > self._connector.broker.max_frame:
            raise too_large(len(body), self._connector.broker.max_frame)
        await self._connector.ask(Opcode.SEND, body, f"SEND to {where}")

    async def close(self) -> None:
        """Waits until the inbox is read to its end: it ends with the client."""
        if self._reading is not None:
            await self._reading
