"""Every test of the client has a broker of one process, and one of four workers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import StartBroker
from tests.together import starting


@pytest.fixture(params=[1, 4], ids=["alone", "workers"])
def start_broker(request: pytest.FixtureRequest) -> Iterator[StartBroker]:
    """Starts brokers with dotted settings, and stops them; see `tests.conftest.start_broker`."""
    with starting(request.param, **{"server.variant": "epoll"}) as start:
        yield start
