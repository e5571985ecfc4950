"""Every command that the storages may send, as data: a test records the traffic and asserts that nothing else is sent.

The streams' part is the subset that Redis, Valkey and Dragonfly answer alike: no consumer groups (`reports/decisions`
says why), no RESP3, no functions, ids of records made by the append script, no ``XREAD +``, finite ``BLOCK``.
"""

from __future__ import annotations

COMMANDS = frozenset(
    {
        "XREVRANGE",
        "EVAL",  # every key declared, one hash tag, no shebang
        "XRANGE",
        "XREAD",
        "XADD",
        "HMGET",
        "HGETALL",
        "HDEL",
        "HSET",
        "SET",
        "MULTI",  # large writes to one server that is no Dragonfly; never around a blocking read
        "EXEC",
        "WATCH",
        "UNWATCH",
        "WAIT",  # where wait_replicas asks for it
        "INFO",
        "CONFIG GET",
        "PING",
    }
)
"""Sent by the adapter."""

SCRIPTED = frozenset(
    {
        "HMGET",
        "HGET",
        "HSET",
        "HDEL",
        "HGETALL",
        "HKEYS",
        "DEL",
        "GET",
        "SET",
        "XADD",
        "XRANGE",
        "XTRIM",
        "TIME",
    }
)
"""Called by its scripts, within the server."""

CONNECTING = frozenset(
    {"AUTH", "CLIENT SETNAME", "CLIENT SETINFO", "SELECT", "CLUSTER SLOTS", "COMMAND", "ASKING", "PING"}
)
"""Sent by redis-py on its own account: a login, a name for the server's lists, a cluster's map."""
