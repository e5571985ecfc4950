"""One line a variant. The order does not matter; names are unique within a family."""

from portask.registry import Entry

_THREADS = frozenset({"threads"})
_PROCESSES = frozenset({"threads", "processes"})
_MULTICORE = frozenset({"multicore"})
_LOOP = _MULTICORE | {"tls"}

VARIANTS = (
    Entry(
        "codec",
        "struct",
        "portask_variants.codecs.struct_cbor:StructCodec",
        "hand-written CBOR for the record's shape",
    ),
    Entry(
        "codec",
        "msgspec-msgpack",
        "portask_variants.codecs.msgspec_msgpack:MsgpackCodec",
        "MessagePack by msgspec: a contrast, its own wire id",
    ),
    Entry(
        "ring",
        "simplequeue",
        "portask_variants.rings.simplequeue:SimpleQueueRing",
        "queue.SimpleQueue",
        capabilities=_THREADS,
    ),
    Entry(
        "ring",
        "bytearray",
        "portask_variants.rings.byte_ring:ByteRing",
        "one bytearray, records back to back",
        capabilities=_THREADS,
    ),
    Entry(
        "ring",
        "shared-memory",
        "portask_variants.rings.shared_memory:SharedMemoryRing",
        "between processes, in shared memory",
        capabilities=_PROCESSES,
        requires="portask_variants.rings.shared_memory:why_not",
    ),
    Entry(
        "pool",
        "freelist",
        "portask_variants.pools.freelist:FreelistPool",
        "keeps returned buffers by size class",
    ),
    Entry("pool", "slab", "portask_variants.pools.slab:SlabPool", "cuts buffers from large arenas"),
    Entry(
        "compression",
        "always",
        "portask_variants.compression.always:Always",
        "zstd, every batch",
        needs=("zstandard",),
    ),
    Entry(
        "compression",
        "threshold",
        "portask_variants.compression.threshold:Threshold",
        "zstd above a size",
        needs=("zstandard",),
    ),
    Entry(
        "compression",
        "adaptive",
        "portask_variants.compression.adaptive:Adaptive",
        "zstd, its level follows load and gain",
        needs=("zstandard",),
    ),
    Entry(
        "compression",
        "batch",
        "portask_variants.compression.batch:BatchCoalescing",
        "gathers batches, then zstd",
        needs=("zstandard",),
    ),
    Entry(
        "compression",
        "dictionary",
        "portask_variants.compression.dictionary:Dictionary",
        "zstd with a trained dictionary",
        needs=("zstandard",),
    ),
    Entry(
        "compression",
        "lz4",
        "portask_variants.compression.lz4_frame:Lz4",
        "LZ4: a contrast, faster and larger",
        needs=("lz4",),
    ),
    Entry(
        "storage",
        "redis",
        "portask_variants.storage.redis_streams:RedisStorage",
        "streams of a Redis, Valkey or Dragonfly server",
        needs=("redis=portask[redis]", "hiredis=portask[redis]"),
        capabilities=frozenset({"server", "multicore"}),
        sandbox="portask_lab.sandboxes:server",
    ),
    Entry(
        "storage",
        "redis-cluster",
        "portask_variants.storage.redis_streams:RedisClusterStorage",
        "the same on a cluster",
        needs=("redis=portask[redis]", "hiredis=portask[redis]"),
        capabilities=frozenset({"cluster", "multicore"}),
        sandbox="portask_lab.sandboxes:cluster",
    ),
    Entry("workers", "threads", "portask_variants.workers.threads:ThreadWorkers", "a thread pool"),
    Entry(
        "storage",
        "lmdb",
        "portask_variants.storage.lmdb_storage:LmdbStorage",
        "LMDB, a transaction a turn: a contrast; survives as its mode says",
        needs=("lmdb",),
        capabilities=frozenset({"durable"}),
    ),
    Entry(
        "storage",
        "sqlite",
        "portask_variants.storage.sqlite_storage:SqliteStorage",
        "SQLite, a transaction a turn: what a general database costs; survives as its mode says",
        capabilities=frozenset({"durable"}),
    ),
    Entry(
        "server",
        "asyncio-protocol",
        "portask_variants.servers.asyncio_protocol:ProtocolServer",
        "asyncio transports, no task a connection",
        capabilities=_LOOP,
    ),
    Entry(
        "server",
        "uvloop",
        "portask_variants.servers.uvloop_server:UvloopServer",
        "the same on uvloop",
        needs=("uvloop",),
        capabilities=_LOOP,
    ),
    Entry(
        "server",
        "epoll",
        "portask_variants.servers.epoll:EpollServer",
        "a bare epoll loop",
        capabilities=_MULTICORE,
        requires="portask_variants.servers.epoll:why_not",
    ),
)
