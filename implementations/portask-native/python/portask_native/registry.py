"""One line a variant. The order does not matter; names are unique within a family."""

from portask.registry import Entry

_NATIVE = frozenset({"native"})
_COMPILED = "portask_native:why_not"

VARIANTS = (
    Entry(
        "codec",
        "native",
        "portask_native.codec:NativeCodec",
        "CBOR in Rust, straight to and from messages",
        capabilities=_NATIVE,
        requires=_COMPILED,
    ),
    Entry(
        "codec",
        "native-lazy",
        "portask_native.codec:NativeLazyCodec",
        "the same; makes a message when it is looked at",
        capabilities=_NATIVE,
        requires=_COMPILED,
    ),
    Entry(
        "server",
        "native-epoll",
        "portask_native.epoll:NativeEpollServer",
        "a reactor in Rust: waits, reads, frames and writes",
        capabilities=_NATIVE | {"multicore"},
        requires=_COMPILED,
    ),
    Entry(
        "server",
        "native-uring",
        "portask_native.uring:NativeUringServer",
        "the same reactor, its bytes moved by io_uring",
        capabilities=_NATIVE | {"multicore"},
        requires="portask_native.uring:why_not",
    ),
    Entry(
        "ring",
        "native-spsc",
        "portask_native._native:SpscRing",
        "the rtrb crate, references between two threads",
        capabilities=_NATIVE | {"threads"},
        requires=_COMPILED,
    ),
    Entry(
        "ring",
        "native-mpmc",
        "portask_native._native:MpmcRing",
        "the crossbeam crate, references between any threads",
        capabilities=_NATIVE | {"threads"},
        requires=_COMPILED,
    ),
    Entry(
        "ring",
        "native-shm",
        "portask_native._native:SharedRing",
        "between processes, in a memfd",
        capabilities=_NATIVE | {"threads", "processes"},
        requires=_COMPILED,
    ),
    Entry(
        "pool",
        "native-slab",
        "portask_native._native:SlabPool",
        "slabs in Rust, views that are lent again and again",
        capabilities=_NATIVE,
        requires=_COMPILED,
    ),
    Entry(
        "workers",
        "native-threads",
        "portask_native.workers:thread_workers",
        "threads in Rust; zstd and checksums without the interpreter",
        capabilities=_NATIVE,
        requires=_COMPILED,
    ),
)
