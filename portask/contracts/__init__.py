"""One small Protocol per family: what a variant must do, and not one method more.

What only some variants can do is a second Protocol (`StreamingCodec`, `BatchRing`, `Closeable`). Whether a
variant can is seen with ``isinstance``; the registry's ``capabilities`` say what cannot be seen from outside
("processes").

A variant is created by calling its registered target with the options of the config file as keyword
arguments: ``Entry.make(**options)``. All options have defaults.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from portask.contracts.codec import Codec, StreamDecoder, StreamingCodec
from portask.contracts.compression import Compression, Packed
from portask.contracts.pool import Pool, PoolStats
from portask.contracts.ring import RECORD_OVERHEAD, BatchRing, Ring, SharedRing, WaitingRing
from portask.contracts.server import Endpoint, Engine, FramedEndpoint, Multicore, Server, next_read
from portask.contracts.sharing import Grant, GroupPart, Sequenced, Shared, SharedGroups
from portask.contracts.storage import (
    COALESCE_WINDOW_US,
    EARLIEST,
    LATEST,
    Appended,
    Bounded,
    Catalog,
    Deferred,
    Divisible,
    Durability,
    Explained,
    Found,
    Gathering,
    GroupState,
    Parts,
    Producers,
    Read,
    Storage,
)
from portask.contracts.workers import NativeSteps, Workers

__all__ = [
    "COALESCE_WINDOW_US",
    "EARLIEST",
    "FAMILIES",
    "LATEST",
    "RECORD_OVERHEAD",
    "Appended",
    "BatchRing",
    "Bounded",
    "Catalog",
    "Closeable",
    "Codec",
    "Compression",
    "Deferred",
    "Divisible",
    "Durability",
    "Endpoint",
    "Engine",
    "Explained",
    "Found",
    "FramedEndpoint",
    "Gathering",
    "Grant",
    "GroupPart",
    "GroupState",
    "Multicore",
    "NativeSteps",
    "Packed",
    "Parts",
    "Pool",
    "PoolStats",
    "Producers",
    "Read",
    "Ring",
    "Sequenced",
    "Server",
    "Shared",
    "SharedGroups",
    "SharedRing",
    "Storage",
    "StreamDecoder",
    "StreamingCodec",
    "WaitingRing",
    "Workers",
    "next_read",
]

FAMILIES = ("codec", "ring", "pool", "compression", "workers", "storage", "server")
"""The seven families, in the order in which a message meets them."""


@runtime_checkable
class Closeable(Protocol):
    """A variant that holds files, sockets, threads or shared memory."""

    def close(self) -> None:
        """Releases them. Idempotent."""
        ...
