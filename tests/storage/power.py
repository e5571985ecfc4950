"""What a device may hold after the power failed, of a program whose system calls were traced.

A database writes its files itself, so no file layer of ours can forget what was not synced. Instead the program
runs under strace, and for any moment in the trace its files are built anew:

* What was written before a sync began that ended before that moment is there, and so is a write through a descriptor
  that was opened with ``O_DSYNC``.
* Of everything else, each sector may be there or not, in any order.
* What is written through a map is not seen: a database that does that is not tested here.
* Names (creating, renaming, removing) reach the device in their order, and are surely there once their folder was
  synced.
"""

from __future__ import annotations

import random
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

SECTOR = 512
_CALLS = "openat,close,lseek,write,pwrite64,writev,pwritev,ftruncate,fallocate,fdatasync,fsync,rename,unlink,unlinkat"
_LINE = re.compile(r"(\d+) +(?:<\.\.\. (\w+) resumed>)?(.*)", re.DOTALL)
_CALL = re.compile(r"(\w+)\((.*)\) += (-?\d+)")
_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')


class Call(NamedTuple):
    """One system call: the lines of the trace at which it began and ended, its arguments as text, its result."""

    begun: int
    ended: int
    name: str
    arguments: str
    result: int


class Change(NamedTuple):
    """Of a file's content: ``data`` at ``at``. ``safe``: on the device without a sync.

    Without data it is a length: that of the file if ``data`` is ``None``, the least that it has if it is empty.
    """

    begun: int
    ended: int
    file: int
    at: int
    data: bytes | None
    safe: bool


class Name(NamedTuple):
    """``path`` stands for the file of a number from now on; -1 for none."""

    begun: int
    ended: int
    path: str
    file: int


class Sync(NamedTuple):
    """Of a file, or of the names in the folder (file -1)."""

    begun: int
    ended: int
    file: int


class Trace:
    """What a program did to the files in a folder.

    Attributes:
        moments: Lines of the trace.
        said: Line and text of what it wrote to the file ``said``.
    """

    def __init__(self, folder: Path, program: str) -> None:
        if shutil.which("strace") is None:
            pytest.skip("needs strace: apt-get install strace")
        log = folder.parent / f"{folder.name}.trace"
        done = subprocess.run(
            [
                *("strace", "-f", "-qq", "-xx", "-s", "100000000", "-e", f"trace={_CALLS}", "-o", str(log)),
                *(sys.executable, "-c", program),
            ],
            capture_output=True,
            timeout=100,
            check=False,
        )
        if b"ptrace" in done.stderr and done.returncode:
            pytest.skip(f"strace may not trace here: {done.stderr.decode().strip()}")
        assert done.returncode == 0, done.stderr.decode()
        self.moments = 0
        self.said: list[tuple[int, str]] = []
        self._changes: list[Change] = []
        self._names: list[Name] = []
        self._syncs: list[Sync] = []
        self._folder = str(folder)
        self._open: dict[int, tuple[int, bool]] = {}  # descriptor → file, whether each write is synced
        self._places: dict[int, int] = {}  # descriptor → where it stands in the file
        self._files: dict[str, int] = {}
        self._count = 0
        for call in self._calls(log):
            self._follow(call)

    def _calls(self, log: Path) -> list[Call]:
        found: list[Call] = []
        begun: dict[str, tuple[int, str]] = {}
        for number, line in enumerate(log.read_text().splitlines()):
            self.moments = number + 1
            match = _LINE.fullmatch(line)
            assert match is not None, line
            thread, resumed, text = match.groups()
            start = number
            if resumed:
                start, before = begun.pop(thread)
                text = before + text
            elif text.endswith("<unfinished ...>"):
                begun[thread] = number, text.removesuffix("<unfinished ...>").rstrip()
                continue
            call = _CALL.match(text)
            if call is not None and int(call[3]) >= 0:
                found.append(Call(start, number, call[1], call[2], int(call[3])))
        return found

    def _follow(self, call: Call) -> None:
        begun, ended, name, arguments, _ = call
        if name == "openat":
            self._opened(call)
            return
        if name in {"rename", "unlink", "unlinkat"}:
            paths = [_text(each) for each in _STRING.findall(arguments)]
            if self._inside(paths[0]):
                file = self._files.pop(paths[0])
                self._names.append(Name(begun, ended, paths[0], -1))
                if name == "rename":
                    self._files[paths[1]] = file
                    self._names.append(Name(begun, ended, paths[1], file))
            return
        descriptor = int(arguments.partition(",")[0])
        if name == "close":
            self._open.pop(descriptor, None)
        elif descriptor in self._open:
            file, safe = self._open[descriptor]
            if name in {"fdatasync", "fsync"}:
                self._syncs.append(Sync(begun, ended, file))
            elif file == self._files.get(f"{self._folder}/said"):
                self.said.append((begun, _text(_STRING.findall(arguments)[0])))
            elif name == "lseek":
                self._places[descriptor] = call.result
            else:
                at, data = self._content(call, descriptor)
                self._changes.append(Change(begun, ended, file, at, data, safe))

    def _opened(self, call: Call) -> None:
        path = _text(_STRING.findall(call.arguments)[0])
        if path == self._folder:
            self._open[call.result] = (-1, False)
        elif self._inside(path):
            if path not in self._files:
                assert "O_CREAT" in call.arguments, path
                self._files[path] = self._count
                self._names.append(Name(call.begun, call.ended, path, self._count))
                self._count += 1
            self._open[call.result] = (self._files[path], "O_DSYNC" in call.arguments)
            self._places[call.result] = 0

    def _content(self, call: Call, descriptor: int) -> tuple[int, bytes | None]:
        """Where a call writes, and what; see `Change`."""
        if call.name == "ftruncate":
            return int(call.arguments.split(", ")[1]), None
        if call.name == "fallocate":
            return sum(map(int, call.arguments.split(", ")[-2:])), b""
        data = b"".join(bytes.fromhex(each.replace("\\x", "")) for each in _STRING.findall(call.arguments))
        data = data[: call.result]
        if call.name in {"pwrite64", "pwritev"}:
            return int(call.arguments.rpartition(", ")[2]), data
        assert call.name in {"write", "writev"}, f"a call that is not understood: {call.name}"
        at = self._places[descriptor]
        self._places[descriptor] = at + call.result
        return at, data

    def _inside(self, path: str) -> bool:
        return path.startswith(f"{self._folder}/")

    def lose_power(self, moment: int, chance: random.Random, to: Path, share: float | None = None) -> None:
        """Builds in ``to`` what the device may hold after the power failed at ``moment``.

        ``share`` of what it may have lost is there all the same; any by default.
        """
        to.mkdir()
        synced: dict[int, int] = {}  # file → when the last sync began that is over
        for sync in self._syncs:
            if sync.ended <= moment:
                synced[sync.file] = max(sync.begun, synced.get(sync.file, -1))
        names = [name for name in self._names if name.begun <= moment]
        sure = sum(name.ended < synced.get(-1, -1) for name in names)
        there = {name.path: name.file for name in names[: chance.randint(sure, len(names))]}
        share = chance.choice((0.0, 0.1, 0.5, 0.9, 1.0)) if share is None else share
        for path, file in there.items():
            if file < 0 or Path(path).name in {"lock", "said"}:
                continue
            content = bytearray()
            for change in self._changes:
                if change.file == file and change.begun <= moment:
                    sure_of_it = change.ended < synced.get(file, -1) or (
                        change.safe and change.ended <= moment
                    )
                    _apply(content, change, 1.0 if sure_of_it else share, chance)
            (to / Path(path).name).write_bytes(content)


def _apply(content: bytearray, change: Change, share: float, chance: random.Random) -> None:
    if not change.data:
        if chance.random() < share:
            content.extend(bytes(max(change.at - len(content), 0)))
            if change.data is None:
                del content[change.at :]
        return
    for start in range(0, len(change.data), SECTOR):
        if chance.random() < share:
            piece = change.data[start : start + SECTOR]
            at = change.at + start
            content.extend(bytes(max(at - len(content), 0)))
            content[at : at + len(piece)] = piece


def _text(escaped: str) -> str:
    return bytes.fromhex(escaped.replace("\\x", "")).decode()
