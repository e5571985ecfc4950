"""Pools: buffers by size class, handed out and taken back."""
