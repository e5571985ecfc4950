"""One line on a terminal that says how far a run is; nothing where nobody watches."""

from __future__ import annotations

import shutil
import sys
import time

import click

from portask.cli.bench.orders import Load, Progress

_EVERY = 0.2  # seconds between updates
_BAR = 20


class Line:
    """See the module. Writes to stderr, so that stdout has the result alone.

    Args:
        load: What is to be done.
        wanted: Whether to show anything.
    """

    def __init__(self, load: Load, *, wanted: bool) -> None:
        self._load = load
        self._on = wanted and sys.stderr.isatty()
        self._next = 0.0
        self._first = 0.0

    def begin(self, processes: int) -> None:
        """Says why nothing is to be seen yet."""
        if self._on:
            self._write(f"starting {processes} process{'es' if processes > 1 else ''}")

    def __call__(self, start: int, now: int, found: list[Progress]) -> None:
        """Shows what the processes did by ``now``; at most five times a second."""
        clock = time.monotonic()
        if self._on and clock >= self._next and now > start:
            self._next = clock + _EVERY
            self._write(self._text((now - start) / 1e9, found))

    def clear(self) -> None:
        """Takes it away."""
        if self._on:
            self._write("")

    def _write(self, text: str) -> None:
        width = shutil.get_terminal_size().columns - 1
        click.echo(f"\r\x1b[K{text[:width]}", nl=False, err=True)
        sys.stderr.flush()

    def _text(self, seconds: float, found: list[Progress]) -> str:
        load = self._load
        published = sum(each.published for each in found)
        counts = [count for each in found for count in each.received]
        received = sum(counts) if load.group else min(counts, default=0)
        if load.kind == "sub":
            if not any(counts):
                return f"waiting for the first message of {load.topic}; Ctrl-C ends"
            self._first = self._first or seconds
            seconds -= self._first
        done = published if load.kind == "pub" else received
        rate = done / seconds if seconds > 0.05 else 0
        parts = [f"{'published' if load.kind == 'pub' else 'received'} {done:,}", f"{rate:,.0f} msg/s"]
        share, left = self._share(done, rate, seconds)
        if share is not None:
            filled = round(share * _BAR)
            parts.insert(0, f"{'█' * filled}{'░' * (_BAR - filled)} {share:>4.0%}")
            parts.append(f"{_clock(left)} left")
        behind = published - received
        if load.kind in {"both", "latency"} and behind > 0:
            parts.append(f"{behind:,} under way")
        return "  ".join(parts)

    def _share(self, done: int, rate: float, seconds: float) -> tuple[float | None, float | None]:
        """How much of the run is over, and seconds until it is; ``None`` where nobody knows."""
        load = self._load
        if load.messages is not None:
            share = min(1.0, done / load.messages)
            return share, (load.messages - done) / rate if rate else None
        if load.seconds is not None:
            return min(1.0, seconds / load.seconds), max(0.0, load.seconds - seconds)
        return None, None


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return "-:--"
    minutes, rest = divmod(int(seconds + 0.99), 60)
    return f"{minutes}:{rest:02}"
