"""Every test of the client has a broker of one process, and one of four."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import DEFAULTS, RunningBroker, StartBroker
from tests.together import RunningWorkers


@pytest.fixture(params=[1, 4], ids=["alone", "workers"])
def start_broker(request: pytest.FixtureRequest) -> Iterator[StartBroker]:
    """Starts brokers with dotted settings, and stops them; see `tests.conftest.start_broker`."""
    places: int = request.param
    with ExitStack() as stack:

        def start(
            settings: dict[str, Any] | None = None, config: Path | None = None
        ) -> RunningBroker | RunningWorkers:
            settings = settings or {}
            if places == 1:
                broker: RunningBroker | RunningWorkers = RunningBroker(settings, config)
            else:
                given = DEFAULTS | {"server.variant": "epoll"} | settings
                broker = RunningWorkers(given, config, places)
            stack.callback(broker.stop)
            return broker

        yield start  # type: ignore[misc]  # one is as good as the other, but for who looks inside
