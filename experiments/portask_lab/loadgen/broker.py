"""``python -m portask_lab.loadgen.broker PARTS [LIMITS [WORKERS]]``: a broker for one measurement.

Listens on a free port, says ``ready <port>``, and ends on SIGTERM. PARTS is JSON: family → the name of its variant and
its options; families that are not named are the reference. LIMITS is JSON, too: a `Limits`. Logs nothing: what a
broker has to complain about, its clients see.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from portask_lab.loadgen.processes import Child

if TYPE_CHECKING:
    from portask.config import Settings


class Limits(msgspec.Struct, omit_defaults=True, frozen=True):
    """How much a broker keeps; all of it where nothing is said.

    Attributes:
        bytes: Retention of each partition.
        age: Retention, seconds.
        memory: Its watermark, bytes.
    """

    bytes: int = 0
    age: float = 0.0
    memory: int = 1 << 30


FLOW = Limits(bytes=64 << 20)
"""For loads whose messages are read at once: a run of any length, however fast, fits into the broker's memory."""


def start(
    variant: str,
    *,
    storage: str = "memory",
    storage_options: Mapping[str, Any] | None = None,
    parts: Mapping[str, str] | None = None,
    limits: Limits = Limits(),  # noqa: B008 - it is frozen
    workers: int = 1,
    **options: Any,
) -> Child:
    """A broker in a process of its own, reference variants where nothing else is said.

    The storage is always named, never left to what `portask serve` would choose.

    Args:
        variant: The server.
        storage: The storage.
        storage_options: Its options.
        parts: Family → variant without options; stronger than the above, the server included.
        limits: What it keeps.
        workers: Processes that share the work; those of more than one are children of the `Child`'s.
        **options: Of the server.
    """
    chosen: dict[str, tuple[str, Mapping[str, Any]]] = {
        "server": (variant, options),
        "storage": (storage, storage_options or {}),
        **{family: (name, {}) for family, name in (parts or {}).items()},
    }
    kept = msgspec.json.encode(limits).decode()
    command = [sys.executable, "-m", "portask_lab.loadgen.broker", encoded(chosen), kept, str(workers)]
    return Child(command)


def encoded(chosen: Mapping[str, tuple[str, Mapping[str, Any]]]) -> str:
    """PARTS, for families → variant and options. A server that is told nothing else stops at once."""
    variant, options = chosen["server"]
    return msgspec.json.encode({**chosen, "server": (variant, {"grace": 0.2, **options})}).decode()


def main() -> None:
    """Serves until SIGTERM."""
    import structlog  # noqa: PLC0415 - optional, or only here

    from portask.config.settings import (  # noqa: PLC0415 - only here
        Choice,
        LimitSettings,
        LogSettings,
        MemorySettings,
        Retention,
        ServerSettings,
        Settings,
        TopicSettings,
    )
    from portask.contracts import Closeable  # noqa: PLC0415 - likewise
    from portask.server.build import build, settle  # noqa: PLC0415 - optional, or only here

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    chosen: dict[str, Any] = {f: Choice(*part) for f, part in msgspec.json.decode(sys.argv[1]).items()}
    server_part = chosen.pop("server")
    kept = msgspec.json.decode(sys.argv[2] if len(sys.argv) > 2 else "{}", type=Limits)
    workers = int(sys.argv[3]) if len(sys.argv) > 3 else 1
    settings = Settings(
        server=ServerSettings(
            variant=server_part.variant, port=0, workers=workers, options=server_part.options
        ),
        **chosen,
        limits=LimitSettings(max_connections=1_000_000, idle_timeout_s=0.0),
        topics=TopicSettings(retention=Retention(kept.bytes, kept.age)),
        memory=MemorySettings(kept.memory),
        logging=LogSettings(level="error"),
    )
    if workers > 1:
        _serve_together(settings, workers)
        return
    engine, server = build(settings)
    settle()
    signal.signal(signal.SIGTERM, lambda _number, _frame: server.stop())
    try:
        server.run(engine, "127.0.0.1", 0, _ready)
    finally:
        if isinstance(engine.storage, Closeable):
            engine.storage.close()


def _ready(_host: str, port: int) -> None:
    print(f"ready {port}", flush=True)  # noqa: T201 - it is asked to say its port


def _serve_together(settings: Settings, workers: int) -> None:
    from portask.multicore import choosing  # noqa: PLC0415 - only here
    from portask.multicore.supervisor import Supervisor  # noqa: PLC0415 - likewise

    supervisor = Supervisor(choosing.choose(settings, workers), workers)
    signal.signal(signal.SIGTERM, lambda _number, _frame: supervisor.stop())
    supervisor.run(_ready)


if __name__ == "__main__":
    main()
