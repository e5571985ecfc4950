"""``python -m portask_lab.loadgen.broker VARIANT [OPTIONS]``: a broker on a free port, for one measurement.

Says ``ready <port>`` once it listens, and ends on SIGTERM. OPTIONS are the server variant's, as JSON. Logs
nothing: what a broker has to complain about, its clients see.
"""

from __future__ import annotations

import signal
import sys
from typing import Any

import msgspec

from portask_lab.loadgen.processes import Child


def start(variant: str, **options: Any) -> Child:
    """A broker with that server variant, in a process of its own, reference variants otherwise."""
    text = msgspec.json.encode({"grace": 0.2, **options}).decode()
    return Child([sys.executable, "-m", "portask_lab.loadgen.broker", variant, text])


def main() -> None:
    """Serves until SIGTERM."""
    import structlog  # noqa: PLC0415 - optional, or only here

    from portask.config.settings import LimitSettings, ServerSettings, Settings  # noqa: PLC0415 - optional, or only here
    from portask.server.build import build  # noqa: PLC0415 - optional, or only here

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    variant, options = sys.argv[1], msgspec.json.decode(sys.argv[2] if len(sys.argv) > 2 else "{}")
    settings = Settings(
        server=ServerSettings(variant=variant, port=0, options=options),
        limits=LimitSettings(max_connections=1_000_000, idle_timeout_s=0.0),
    )
    engine, server = build(settings)
    signal.signal(signal.SIGTERM, lambda _number, _frame: server.stop())
    server.run(engine, "127.0.0.1", 0, lambda _host, port: print(f"ready {port}", flush=True))  # noqa: T201 - it is asked to say its port


if __name__ == "__main__":
    main()
