"""``portask serve``: from settings to a running broker, and back out again."""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import NoReturn

import click
import msgspec
import structlog

from portask import registry
from portask.admin import logs
from portask.config import DEFAULT_FOLDER, DEFAULT_HOST, DEFAULT_PORT, Loaded, Settings, changes, resolve
from portask.config.access import check
from portask.config.fingerprint import mismatch
from portask.config.live import live
from portask.config.options import options as variant_options
from portask.contracts import FAMILIES, Closeable, Durability
from portask.core.describing import promise_of
from portask.errors import ConfigError, PortaskError
from portask.server.build import build, settle
from portask.server.reload import take_over
from portask.server.tls import tls
from portask.storage.lock import MOVING, WORKERS
from portask.wire import accelerate

log = structlog.get_logger("portask.serve")

_PROMISE = {
    Durability.MEMORY: "lost when the broker ends",
    Durability.OS: "survives the broker, not a power loss",
    Durability.SYNCED: "survives a power loss",
    Durability.SERVER: "as the store says",
}
_LEVELS = ("debug", "info", "warning", "error", "critical")


@click.command()
@click.option(
    "--config", "path", type=click.Path(), metavar="FILE", help="TOML file; else PORTASK_CONFIG names one."
)
@click.option("--host", help=f"Address to listen on, {DEFAULT_HOST} unless set.")
@click.option(
    "--port", type=click.IntRange(0, 65535), help=f"TCP port, {DEFAULT_PORT} unless set; 0 picks a free one."
)
@click.option("--server", metavar="VARIANT", help="Server variant.")
@click.option(
    "--workers",
    type=click.IntRange(0, 256),
    metavar="N",
    help="Processes that share the work, 1 unless set; 0 for one a core.",
)
@click.option("--storage", metavar="VARIANT", help="Storage variant; `memory` keeps nothing.")
@click.option(
    "--data",
    metavar="FOLDER",
    help=f"Where messages are kept, ./{DEFAULT_FOLDER} unless set; made if need be.",
)
@click.option("--log-level", type=click.Choice(_LEVELS), help="Least severe events that are logged.")
def serve(
    *,
    path: str | None,
    host: str | None,
    port: int | None,
    server: str | None,
    workers: int | None,
    storage: str | None,
    data: str | None,
    log_level: str | None,
) -> None:
    """Run a broker until it is told to stop.

    Messages are kept in a folder, and are there again after a restart.

    Settings come from the file, PORTASK_… variables over it, and these options over both; `portask config check`
    shows the result. One line on stdout says when the broker is ready; logs go to stderr.

    SIGTERM or Ctrl-C ends it once what is under way is done, a second one at once. SIGHUP reads the settings
    again: limits, retention, identities, certificates and the log level are taken over, and a log line names what
    needs a restart.
    """
    given = {
        "server.host": host,
        "server.port": port,
        "server.variant": server,
        "server.workers": workers,
        "storage.variant": storage,
        "storage.options.path": data,
        "logging.level": log_level,
    }
    overrides = {key: value for key, value in given.items() if value is not None}
    loaded = resolve(path, os.environ, overrides)
    settings = loaded.settings
    logs.configure(settings.logging.level, settings.logging.format, color=not os.environ.get("NO_COLOR"))
    _remark(loaded)

    def read_again() -> Loaded:
        return resolve(path, os.environ, overrides)

    if settings.server.workers == 1:
        _serve_alone(settings, read_again)
    else:
        _serve_together(settings, read_again)
    log.info("stopped")


def _serve_alone(settings: Settings, read_again: Callable[[], Loaded]) -> None:
    """In this process."""
    encryption = tls(settings)
    folder = _folder(settings)
    try:
        _bring_together(settings, folder)
        engine, runner = build(settings, encryption)
    except OSError as error:
        _cannot_keep(folder, error)
    _on_signals(runner.stop, _Reload(settings, read_again, partial(take_over, engine, encryption)))
    settle()
    place = settings.server
    listening = False

    def ready(bound_host: str, bound_port: int) -> None:
        nonlocal listening
        listening = True
        storage = engine.storage
        click.echo(
            _ready_line(
                settings, (storage.durability.value, promise_of(storage)), folder, bound_host, bound_port
            )
        )
        sys.stdout.flush()
        log.info(
            "ready",
            host=bound_host,
            port=bound_port,
            pid=os.getpid(),
            wire_helpers=str(accelerate.status()),
            tls=settings.tls.on,
            authentication=settings.auth.on,
        )

    try:
        runner.run(engine, place.host, place.port, ready)
    except OSError as error:
        if listening:
            raise
        _cannot_listen(place.host, place.port, error)
    finally:
        if isinstance(engine.storage, Closeable):
            engine.storage.close()


def _bring_together(settings: Settings, folder: str) -> None:
    """What several workers kept before is one broker's now."""
    if folder and any(Path(folder, name).exists() for name in (WORKERS, MOVING)):
        from portask.multicore import choosing  # noqa: PLC0415 - a broker that was always one process does without

        parts = choosing.divide(settings, 1)
        if parts is not None:
            parts.close()


def _serve_together(settings: Settings, read_again: Callable[[], Loaded]) -> None:
    """In several processes, of which this one looks after the others."""
    from portask.multicore import choosing  # noqa: PLC0415 - a broker of one process does without
    from portask.multicore.supervisor import Supervisor  # noqa: PLC0415 - likewise

    count = choosing.workers(settings)
    chosen = choosing.choose(settings, count)
    tls(settings)  # wrong files are to be named once, and not by every worker
    folder = _folder(settings)
    try:
        supervisor = Supervisor(chosen, count, color=not os.environ.get("NO_COLOR"))
    except OSError as error:
        _cannot_keep(folder, error)

    def take_over_all(new: Settings) -> None:
        if new.tls.on:
            tls(new)
        supervisor.reload(msgspec.structs.replace(new, ring=chosen.ring))

    _on_signals(supervisor.stop, _Reload(settings, read_again, take_over_all))
    place = settings.server
    listening = False

    def ready(host: str, port: int) -> None:
        nonlocal listening
        listening = True
        kept = (supervisor.durability, supervisor.promise)
        click.echo(_ready_line(chosen, kept, folder, host, port, workers=count))
        sys.stdout.flush()
        log.info(
            "ready",
            host=host,
            port=port,
            pid=os.getpid(),
            workers=count,
            wire_helpers=str(accelerate.status()),
            tls=settings.tls.on,
            authentication=settings.auth.on,
        )

    try:
        supervisor.run(ready)
    except OSError as error:
        if listening:
            raise
        _cannot_listen(place.host, place.port, error)


def _remark(loaded: Loaded) -> None:
    """Logs what a user may want to know about the settings."""
    for note in loaded.notes:
        log.warning("setting not used", reason=note)
    auth = loaded.settings.auth
    if auth.required and not any(each.token_hash or each.certificate for each in auth.identities.values()):
        log.warning(
            "nobody can come in: no identity has a token or a certificate", hint="portask auth token NAME"
        )
    differences = mismatch(loaded.settings.receipt)
    if differences:
        log.warning(
            "the variants were chosen on another machine: measure again with `portask lab run`",
            differences=differences,
        )


def _folder(settings: Settings) -> str:
    """The folder in which the chosen storage keeps its files; empty for one that has none."""
    path = variant_options(registry.get("storage", settings.storage.variant))[0].get("path")
    return "" if path is None else str(Path(settings.storage.options.get("path", path.default)).absolute())


def _ready_line(
    settings: Settings, kept: tuple[str, str], folder: str, host: str, port: int, *, workers: int = 1
) -> str:
    """For people. ``kept`` is the storage's durability, and its promise if it has one."""
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    chosen = " ".join(f"{family}={settings.choice(family).variant}" for family in reversed(FAMILIES))
    durability, promise = kept
    together = f"; {workers} workers" if workers > 1 else ""
    place = f"; kept in {folder}" if folder else ""
    return (
        f"portask: ready on {shown}; {chosen}{together}; wire helpers: {accelerate.status()}; "
        f"durability={durability} ({promise or _PROMISE[Durability(durability)]}){place}"
    )


def _cannot_keep(folder: str, error: OSError) -> NoReturn:
    """Says why the folder cannot be used, if that is what went wrong.

    Raises:
        PortaskError: it is.
        OSError: it is not.
    """
    if not folder or not isinstance(error.filename, str | Path):
        raise error
    if not Path(error.filename).absolute().is_relative_to(folder):
        raise error
    raise PortaskError(
        f"messages cannot be kept in {folder}: {error.strerror or error}; "
        "choose another folder with --data, or keep nothing with --storage memory"
    ) from error


def _cannot_listen(host: str, port: int, error: OSError) -> NoReturn:
    """Says why the address cannot be had.

    Raises:
        PortaskError: always.
    """
    where = f"{host}:{port}"
    if error.errno == errno.EADDRINUSE:
        text = f"{where} is in use; stop the program that has it, or choose another with --port"
    elif error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
        text = f"{where} is no address of this machine; choose one with --host, 0.0.0.0 for all"
    elif error.errno in {errno.EACCES, errno.EPERM}:
        text = f"{where} may not be used by this user; choose a port above 1023 with --port"
    else:
        text = f"cannot listen on {where}: {error.strerror or error}; choose another address with --host and --port"
    raise PortaskError(text) from error


class _Reload:
    """Reads the settings again, and applies what a running broker can take over."""

    def __init__(
        self, settings: Settings, read: Callable[[], Loaded], take_over: Callable[[Settings], None]
    ) -> None:
        self._settings = settings
        self._read = read
        self._take_over = take_over
        self._one_at_a_time = threading.Lock()

    def __call__(self) -> None:
        """Logs what was taken over and what needs a restart. Wrong settings change nothing."""
        with self._one_at_a_time:
            try:
                new = self._read().settings
                then = live(self._settings, new)
                check(then)  # the address stays: what suits another one may leave this one open
                self._take_over(then)
            except ConfigError as error:
                log.error("settings not taken over", problems=str(error).splitlines())  # noqa: TRY400 - no traceback
                return
            applied, needs_restart = changes(self._settings, new)
            self._settings = then
            logs.set_level(then.logging.level)
            log.info(
                "settings read again",
                applied=[str(change) for change in applied],
                needs_restart=[str(change) for change in needs_restart],
            )


def _on_signals(stop: Callable[[], None], reload: Callable[[], None]) -> None:
    asked = 0

    def leave(number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        asked += 1
        if asked > 1:
            os._exit(128 + number)
        if sys.stderr.isatty():
            # not through the log: the signal may have come while its lock is held
            os.write(2, b"portask: finishing what is under way; once more to stop at once\n")
        stop()

    def again(_number: int, _frame: FrameType | None) -> None:
        # reads files and logs: neither belongs into a signal handler, nor on the broker's own thread
        threading.Thread(target=reload, name="portask-reload", daemon=True).start()

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGINT, leave)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, again)
