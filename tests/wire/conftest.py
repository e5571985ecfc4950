"""Everything about the wire is tested twice: with the compiled helpers, and with their twins in Python."""

import os
from collections.abc import Iterator

import pytest

from portask.wire import accelerate


@pytest.fixture(scope="module", params=["python", "native"], autouse=True)
def helpers(request: pytest.FixtureRequest) -> Iterator[str]:
    """``python`` or ``native``: who cuts frames and checks batches."""
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
