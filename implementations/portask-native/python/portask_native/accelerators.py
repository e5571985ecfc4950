"""Helpers for the wire: see `portask.wire.accelerate`."""

from portask_native import _native

HELPERS = {
    "scan_frames": _native.scan_frames,
    "parse_batch": _native.parse_batch,
    "split_batches": _native.split_batches,
    "Coalescer": _native.Coalescer,
    "gather_batches": _native.gather_batches,
}
