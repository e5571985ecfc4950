"""The wire: frames, record batches, control bodies and the connection state machine. No I/O, no clock.

Start with `frames` (24-byte headers), then `batches` (64-byte headers), then `connection` (who may send what when).
"""
