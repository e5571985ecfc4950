"""What tests share: a real broker in a thread of this process, and who helps the wire."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from portask.config.loading import load
from portask.contracts import Server
from portask.core.broker import Broker
from portask.server.build import build
from portask.wire import accelerate

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell that starts us in the background has Ctrl-C ignored, which all that we start inherits; but tests press it.
    signal.signal(signal.SIGINT, signal.default_int_handler)

DEFAULTS = {"server.options.grace": 0.3, "storage.variant": "memory"}


class RunningBroker:
    """A broker that listens, with storage memory unless told otherwise.

    Attributes:
        host: 127.0.0.1.
        port: The one that was free.
        url: For clients; ``portasks://`` where the settings have a certificate.
        engine: The broker itself; look, do not touch: it lives in another thread.
    """

    def __init__(self, settings: dict[str, Any], config: Path | None = None) -> None:
        self.engine: Broker
        self._server: Server
        loaded = load(config, {}, DEFAULTS | settings)
        self._scheme = "portasks" if loaded.tls.on else "portask"
        self.engine, self._server = build(loaded)
        self._ready = threading.Event()
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(settings.get("server.port", 0),), daemon=True)
        self._thread.start()
        if not self._ready.wait(10):
            raise RuntimeError("the broker did not listen within 10 s") from self._failed
        if self._failed is not None:
            raise self._failed

    def _run(self, port: int) -> None:
        try:
            self._server.run(self.engine, "127.0.0.1", port, self._listens)
        except BaseException as error:  # noqa: BLE001 - told to whoever waits for the broker
            self._failed = error
            self._ready.set()

    def _listens(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        self.url = f"{self._scheme}://{host}:{port}"
        self._ready.set()

    @property
    def engines(self) -> list[Broker]:
        """One a process."""
        return [self.engine]

    def stop(self) -> None:
        """Drains and ends it. Idempotent."""
        self._server.stop()
        self._thread.join(10)
        if self._thread.is_alive():
            raise RuntimeError("the broker did not end within 10 s")
        if self._failed is not None:
            raise self._failed


StartBroker = Callable[..., RunningBroker]


@pytest.fixture
def start_broker() -> Iterator[StartBroker]:
    """Starts brokers with dotted settings, ``start_broker({"topics.default_partitions": 4})``, and stops them.

    Settings that have no dotted form come from a file, ``config``.
    """
    with ExitStack() as stack:

        def start(settings: dict[str, Any] | None = None, config: Path | None = None) -> RunningBroker:
            broker = RunningBroker(settings or {}, config)
            stack.callback(broker.stop)
            return broker

        yield start


@pytest.fixture
def broker(start_broker: StartBroker) -> RunningBroker:
    """A broker with nothing special."""
    return start_broker()


@pytest.fixture(scope="module", params=["python", "native"])
def helpers(request: pytest.FixtureRequest) -> Iterator[str]:
    """Tests that use it run twice: with the compiled helpers of the wire, and with their twins in Python."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(accelerate.SWITCH, "1" if request.param == "python" else "")
        accelerate.refresh()
        status = accelerate.status()
        if request.param == "native" and not status.source:
            if os.environ.get("PORTASK_REQUIRE_NATIVE") == "1":
                pytest.fail(f"no compiled helpers: {status.reason}")
            pytest.skip(f"no compiled helpers: {status.reason}")
        yield request.param
    accelerate.refresh()
