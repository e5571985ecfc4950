"""One line a variant. The order does not matter; names are unique within a family."""

from portask.registry import Entry

VARIANTS: tuple[Entry, ...] = (
    Entry(
        "server",
        "native-epoll",
        "portask_native.epoll:NativeEpollServer",
        "a reactor in Rust: waits, reads, frames and writes",
        capabilities=frozenset({"native"}),
        requires="portask_native:why_not",
    ),
)
