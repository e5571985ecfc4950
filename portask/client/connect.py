"""`connect`: from a URL and options to a `Client`."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from types import TracebackType
from typing import Any, Unpack

from portask.client.client import Client
from portask.client.encryption import Encryption
from portask.client.options import Options, OptionsDict, parse_urls
from portask.config.settings import DEFAULT_URL


class Connecting:
    """What `connect` returns: await it, or use it with ``async with``."""

    def __init__(self, urls: str | Sequence[str], options: Options) -> None:
        self._addresses = parse_urls(urls)
        options.check_addresses(self._addresses)
        self._encryption = Encryption(options) if any(each.tls for each in self._addresses) else None
        self._options = options
        self._client: Client | None = None

    def __await__(self) -> Generator[Any, None, Client]:
        return self._connect().__await__()

    async def _connect(self) -> Client:
        client = Client(self._addresses, self._options, self._encryption)
        await client.start()
        return client

    async def __aenter__(self) -> Client:
        self._client = await self._connect()
        return await self._client.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._client is not None:
            await self._client.__aexit__(kind, error, trace)


def connect(url: str | Sequence[str] = DEFAULT_URL, **options: Unpack[OptionsDict]) -> Connecting:
    """Connects to a broker: ``async with portask.connect(url) as client`` or ``client = await portask.connect(url)``.

    Args:
        url: ``portask://host[:port]``, or ``portasks://…`` for TLS; ``portask://one:7711,other:7711``, or a list
            of them: tried in order, and again after a loss.
        **options: See `portask.client.Options`.

    Raises:
        ConfigError: a URL or an option is wrong; at once.
        ConnectFailed: no address answered; when awaited. Names each address with its reason.
        AuthenticationFailed: it did, and does not know who this is; when awaited.
        VariantError: the codec or the compression is not there; when awaited.
    """
    return Connecting(url, Options(**options))
