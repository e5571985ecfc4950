"""Compression strategies: one a file; `zstd` holds what the zstd-based ones share."""
