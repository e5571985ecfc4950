"""A writer that is killed in the middle of its work: what it was told is stored is stored, in order."""

from __future__ import annotations

import logging
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import structlog

from portask import registry
from portask.errors import StorageError
from portask.messages import TopicPartition
from portask_lab.conformance.storage_support import BASE, batch_of

from .databases import DATABASES
from .shims import SMALL, payloads

KEYS = (TopicPartition("a", 0), TopicPartition("b", 7))
ROUNDS = 6


def opened(folder: str | Path, variant: str, mode: str) -> Any:
    options = SMALL if variant == "segment-log" else {}
    return registry.get("storage", variant).make(path=folder, mode=mode, **options)


def write_until_killed(folder: str, variant: str, mode: str) -> None:
    """Appends numbered records to both partitions, and prints what is acknowledged."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    storage = opened(folder, variant, mode)
    chance = random.Random(os.getpid())
    number = {key: len(payloads(storage, key)) if key in storage.partitions() else 0 for key in KEYS}
    out = sys.stdout

    def done(key: TopicPartition, count: int) -> Any:
        def told(base: int, error: Any) -> None:
            out.write(f"{key.partition} {base + count}\n" if error is None else f"{error}\n")

        return told

    def saved(state: bytes) -> Any:
        return lambda error: out.write(f"state {state.decode()}\n" if error is None else f"{error}\n")

    out.write("ready\n")
    while True:
        for _ in range(chance.choice((1, 2, 9))):
            key = chance.choice(KEYS)
            count = chance.choice((1, 1, 1, 4))
            start = number[key]
            number[key] += count
            records = [b"%d" % at + bytes(chance.choice((0, 90))) for at in range(start, start + count)]
            storage.append(key, batch_of(*records), BASE + start, done(key, count))
        state = b"%d" % sum(number.values())
        storage.save_group("g", KEYS[0], state, saved(state))
        storage.poll()
        out.flush()


@pytest.mark.parametrize("mode", ["os", "synced"])
@pytest.mark.parametrize("variant", ["segment-log", *DATABASES])
def test_killed_in_a_loop_it_keeps_every_acknowledged_record(tmp_path: Path, variant: str, mode: str) -> None:
    if reason := registry.get("storage", variant).unavailable():
        pytest.skip(reason)
    chance = random.Random(7)
    acked = dict.fromkeys((key.partition for key in KEYS), 0)
    state = 0
    for _ in range(ROUNDS):
        program = (
            f"from {__name__} import write_until_killed; "
            f"write_until_killed({str(tmp_path)!r}, {variant!r}, {mode!r})"
        )
        with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"ready\n"
            # So many answers, however slow the disk is, and then in the middle of whatever it does.
            first = b"".join(writer.stdout.readline() for _ in range(chance.choice((0, 3, 40))))
            time.sleep(chance.uniform(0, 0.1))
            writer.send_signal(signal.SIGKILL)
            told, _ = writer.communicate()
        for line in (first + told).decode().split("\n")[:-1]:  # the last one may be half a line
            what, value = line.split()
            if what == "state":
                state = max(state, int(value))
            else:
                acked[int(what)] = int(value)
        with_log = opened(tmp_path, variant, mode)
        for key in KEYS:
            found = payloads(with_log, key) if key in with_log.partitions() else {}
            assert len(found) >= acked[key.partition]
            assert [int(payload.rstrip(b"\0")) for payload in found.values()] == list(range(len(found)))
            acked[key.partition] = len(found)
        assert int(next((found for *_, found in with_log.load_groups()), b"0")) >= state
        with_log.close()
    assert all(acked.values())


@pytest.mark.parametrize("variant", ["segment-log", *DATABASES])
def test_a_second_broker_is_told_who_has_the_folder(tmp_path: Path, variant: str) -> None:
    if reason := registry.get("storage", variant).unavailable():
        pytest.skip(reason)
    program = (
        f"from {__name__} import write_until_killed; write_until_killed({str(tmp_path)!r}, {variant!r}, 'os')"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
        with pytest.raises(StorageError, match=rf"in use by the process {writer.pid}: stop it"):
            opened(tmp_path, variant, "os")
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
    opened(tmp_path, variant, "os").close()
