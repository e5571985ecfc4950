"""Rings: bounded queues of byte records between one producer and one consumer."""
