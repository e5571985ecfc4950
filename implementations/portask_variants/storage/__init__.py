"""Storages beyond those that ship with the broker: LMDB, and servers that many brokers may share."""
