"""Storages on the streams of a Redis, Valkey or Dragonfly server, or of a cluster of them.

Read `storage` first, then `keys` (what lies where), `scripts` (what the server decides) and `lanes` (how work gets
there and back).
"""

from portask_variants.storage.redis_streams.variants import RedisClusterStorage, RedisStorage

__all__ = ["RedisClusterStorage", "RedisStorage"]
