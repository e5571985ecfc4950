"""``portask pub``: an argument, a file or the lines of stdin become messages."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from portask.cli.options import broker_options, connect, json_option
from portask.cli.output import is_terminal, print_json
from portask.messages import Message

if TYPE_CHECKING:
    from portask.client.results import OffsetRange

_READ = 1 << 20
_CHUNK = 10_000  # messages of one call: the bar moves, and an interrupt is noticed


@click.command()
@click.argument("topic")
@click.argument("payload", required=False)
@broker_options
@click.option("--key", help="Chooses the partition: the same key, the same partition.")
@click.option("--header", "headers", metavar="NAME=VALUE", multiple=True, help="A header; may be repeated.")
@click.option("--partition", type=click.IntRange(0), help="The partition itself, instead of a key.")
@click.option("--file", "path", metavar="FILE", help="Take the payload from a file; - is stdin.")
@click.option("--lines", is_flag=True, help="Each line of the file is a message.")
@click.option("--count", type=click.IntRange(1), default=1, help="Publish the payload so many times.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing.")
@json_option
def pub(
    *,
    topic: str,
    payload: str | None,
    url: str,
    key: str | None,
    headers: tuple[str, ...],
    partition: int | None,
    path: str | None,
    lines: bool,
    count: int,
    quiet: bool,
    as_json: bool,
) -> None:
    """Publish PAYLOAD to TOPIC; without a payload, each line of stdin as it comes.

    On a terminal a line says where the messages lie, once the broker has them: topic:partition@offset.

    \b
    portask pub orders '{"id": 7}' --key customer-3 --header source=shell
    portask pub orders --file order.json
    tail -f app.log | portask pub logs
    """
    if payload is not None and path is not None:
        raise click.UsageError("PAYLOAD and --file both say what to publish: give one")
    by_line = lines or path is None
    if payload is not None and lines:
        raise click.UsageError("--lines reads a file or stdin: leave PAYLOAD out")
    if payload is None and by_line and count > 1:
        raise click.UsageError(
            "--count repeats one payload: leave --lines out, or give a PAYLOAD or a --file"
        )
    extra: dict[str, Any] = {
        "key": None if key is None else os.fsencode(key),
        "headers": parse_headers(headers) or None,
    }
    # whatever can be wrong with the input is found before a broker is asked
    one = os.fsencode(payload) if payload is not None else None if by_line else _whole(path)
    size = _size(path) if by_line else 0
    if one is None and path in {None, "-"} and sys.stdin.isatty():
        click.echo("each line is a message; Ctrl-D ends", err=True)
    chunks = _line_chunks(path) if one is None else _copies(one, count)
    with (
        connect(url) as client,
        _bar(size, by_line=True) if one is None else _bar(count, by_line=False) as bar,
    ):
        # a bar and lines on one terminal would get into each other's way
        show = _Printer(
            topic, as_json=as_json, silent=quiet or not (as_json or (is_terminal() and bar is None))
        )
        for step, payloads in chunks:
            messages = [Message(each, **extra) for each in payloads]
            if messages:
                show.ranges(client.publish_many(topic, messages, partition=partition).ranges)
            if bar is not None:
                bar.update(step)


class _Printer:
    """Prints where messages lie."""

    def __init__(self, topic: str, *, as_json: bool, silent: bool) -> None:
        self._topic = topic
        self._as_json = as_json
        self._silent = silent

    def ranges(self, found: Sequence[OffsetRange]) -> None:
        """One line a range of neighbours for people, one a message for machines."""
        if self._silent:
            return
        for part in found:
            last = part.base_offset + part.count - 1
            if self._as_json:
                place = {"topic": self._topic, "partition": part.partition}
                print_json(*({**place, "offset": offset} for offset in range(part.base_offset, last + 1)))
            else:
                more = f"-{last}" if part.count > 1 else ""
                click.echo(f"{self._topic}:{part.partition}@{part.base_offset}{more}")
        sys.stdout.flush()


def parse_headers(given: tuple[str, ...]) -> dict[str, str | bytes]:
    """The headers of ``NAME=VALUE`` options.

    Raises:
        BadParameter: one of them is not.
    """
    found: dict[str, str | bytes] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{text!r} is not NAME=VALUE", param_hint="--header")
        found[name] = value
    return found


def _whole(path: str | None) -> bytes:
    return sys.stdin.buffer.read() if path in {None, "-"} else Path(str(path)).read_bytes()


def _size(path: str | None) -> int:
    """Bytes to read, 0 where nobody knows.

    Raises:
        OSError: the file is not there.
    """
    if path in {None, "-"}:
        return 0
    found = Path(str(path)).stat()
    return found.st_size if stat.S_ISREG(found.st_mode) else 0


def _copies(payload: bytes, count: int) -> Iterator[tuple[int, Iterator[bytes]]]:
    while count:
        part = min(count, _CHUNK)
        yield part, repeat(payload, part)
        count -= part


def _line_chunks(path: str | None) -> Iterator[tuple[int, list[bytes]]]:
    """Bytes read and the lines they completed, as they come: a line does not wait for the next one."""
    descriptor = 0 if path in {None, "-"} else os.open(str(path), os.O_RDONLY)
    rest = b""
    try:
        while data := os.read(descriptor, _READ):
            *complete, rest = (rest + data).split(b"\n") if b"\n" in data else (rest + data,)
            yield len(data), [line.removesuffix(b"\r") for line in complete]
        if rest:
            yield 0, [rest]
    finally:
        if descriptor:
            os.close(descriptor)


def _bar(length: int, *, by_line: bool) -> AbstractContextManager[Any]:
    """A bar with the time left on stderr, where a person waits for much work whose size is known.

    ``length`` is in bytes when publishing line by line, else in messages.
    """
    if not sys.stderr.isatty() or length <= (_READ if by_line else _CHUNK):
        return nullcontext()
    return click.progressbar(length=length, label="publishing", file=sys.stderr)
