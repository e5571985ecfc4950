"""A broker of several workers, each on a thread of this process; between them is what is between processes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from portask.config.loading import load
from portask.contracts import Closeable
from portask.core.producers import ProducerTable
from portask.multicore import choosing
from portask.server.build import build_as
from portask_lab.conformance.server_together import Engines, Together
from tests.conftest import DEFAULTS, RunningBroker, StartBroker


@contextmanager
def starting(places: int, **defaults: Any) -> Iterator[StartBroker]:
    """What `tests.conftest.start_broker` gives, for brokers of so many workers; ``defaults`` are for several only."""
    with ExitStack() as stack:

        def start(
            settings: dict[str, Any] | None = None, config: Path | None = None
        ) -> RunningBroker | RunningWorkers:
            settings = settings or {}
            if places == 1:
                broker: RunningBroker | RunningWorkers = RunningBroker(settings, config)
            else:
                broker = RunningWorkers(DEFAULTS | defaults | settings, config, places)
            stack.callback(broker.stop)
            return broker

        yield start  # type: ignore[misc]  # one is as good as the other, but for who looks inside


class RunningWorkers:
    """Like `tests.conftest.RunningBroker`.

    Attributes:
        engines: One a worker; look, do not touch: they live in other threads.
    """

    def __init__(self, settings: dict[str, Any], config: Path | None, places: int) -> None:
        loaded = load(config, {}, settings)
        choosing.choose(loaded, places)  # refuses what cannot be shared
        self._parts = choosing.divide(loaded, places)
        self._ready = threading.Event()
        self._failed: BaseException | None = None
        try:
            self._together = Together(
                places,
                lambda place, make: build_as(make, choosing.part(loaded, place, places, self._parts)),
            )
            self.engines = self._together.engines
            scheme = "portasks" if loaded.tls.on else "portask"
            self._thread = threading.Thread(
                target=self._run, args=(scheme, settings.get("server.port", 0)), daemon=True
            )
            self._thread.start()
            if not self._ready.wait(10):
                raise RuntimeError("the workers did not listen within 10 s")
            if self._failed is not None:
                raise self._failed
        except BaseException:
            if self._parts is not None:
                self._parts.close()
            raise

    @property
    def engine(self) -> Everything:
        """What tests look at of a broker, all workers together."""
        return Everything(self._together)

    def _run(self, scheme: str, port: int) -> None:
        def ready(host: str, port: int) -> None:
            self.host, self.port = host, port
            self.url = f"{scheme}://{host}:{port}"
            self._ready.set()

        try:
            self._together.run(None, "127.0.0.1", port, ready)
        except BaseException as error:  # noqa: BLE001 - told to whoever waits for the broker
            self._failed = error
            self._ready.set()

    def stop(self) -> None:
        """Drains and ends it. Idempotent."""
        self._together.stop()
        self._thread.join(10)
        if self._thread.is_alive():
            raise RuntimeError("the workers did not end within 10 s")
        for engine in self.engines:
            if isinstance(engine.storage, Closeable):
                engine.storage.close()
        if self._parts is not None:
            self._parts.close()
        if self._failed is not None:
            raise self._failed


class Everything(Engines):
    """What tests look at beside what checks of the lab do."""

    @property
    def inboxes(self) -> list[object]:
        """As many as there are."""
        return [None] * sum(len(engine.inboxes) for engine in self._engines)

    @property
    def producers(self) -> Producers:
        """Of all."""
        return Producers([engine.producers for engine in self._engines])

    @property
    def storage(self) -> Any:
        """The first worker's. The others' are closed with the broker."""
        return self._engines[0].storage


class Producers:
    """Tables of all workers as one."""

    def __init__(self, tables: list[ProducerTable]) -> None:
        self.duplicates = sum(table.duplicates for table in tables)
        self._table = {key: value for table in tables for key, value in table._table.items()}

    def __len__(self) -> int:
        return len(self._table)
