"""``python -m portask_lab.loadgen.broker VARIANT OPTIONS [STORAGE OPTIONS]``: a broker for one measurement.

Listens on a free port, says ``ready <port>``, and ends on SIGTERM. OPTIONS are those of the server variant and of the
storage variant, as JSON. Logs nothing: what a broker has to complain about, its clients see.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping
from typing import Any

import msgspec

from portask_lab.loadgen.processes import Child


def start(
    variant: str, *, storage: str = "memory", storage_options: Mapping[str, Any] | None = None, **options: Any
) -> Child:
    """A broker with that server and that storage, in a process of its own, reference variants otherwise.

    The storage is always named, never left to what `portask serve` would choose.
    """
    own = msgspec.json.encode({"grace": 0.2, **options}).decode()
    given = msgspec.json.encode(storage_options or {}).decode()
    return Child([sys.executable, "-m", "portask_lab.loadgen.broker", variant, own, storage, given])


def main() -> None:
    """Serves until SIGTERM."""
    import structlog  # noqa: PLC0415 - optional, or only here

    from portask.config.settings import Choice, LimitSettings, ServerSettings, Settings  # noqa: PLC0415 - only here
    from portask.contracts import Closeable  # noqa: PLC0415 - likewise
    from portask.server.build import build  # noqa: PLC0415 - optional, or only here

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    variant, options, *other = sys.argv[1:]
    storage, given = other or ("memory", "{}")
    settings = Settings(
        server=ServerSettings(variant=variant, port=0, options=msgspec.json.decode(options)),
        storage=Choice(storage, msgspec.json.decode(given)),
        limits=LimitSettings(max_connections=1_000_000, idle_timeout_s=0.0),
    )
    engine, server = build(settings)
    signal.signal(signal.SIGTERM, lambda _number, _frame: server.stop())
    try:
        server.run(engine, "127.0.0.1", 0, lambda _host, port: print(f"ready {port}", flush=True))  # noqa: T201 - it is asked to say its port
    finally:
        if isinstance(engine.storage, Closeable):
            engine.storage.close()


if __name__ == "__main__":
    main()
