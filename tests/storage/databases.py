"""The storages that keep records in a database."""

from __future__ import annotations

DATABASES = ("lmdb",)
