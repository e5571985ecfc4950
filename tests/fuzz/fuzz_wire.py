"""Any bytes, cut anywhere, are frames, batches and bodies, or typed errors; what is accepted is written back the same.

Run it for as long as you like: ``python -m tests.fuzz.fuzz_wire [-max_total_time=60] [corpus folder]``.
"""

from __future__ import annotations

import importlib
import sys

import msgspec

from portask.errors import BatchError, PortaskError, RemoteProtocolError
from portask.wire import batches, connection, control, frames

# Everything is named through its module: the fuzzer loads the modules a second time.
KINDS = (
    "Hello",
    "Welcome",
    "Error",
    "Open",
    "PubAck",
    "Subscribe",
    "Assigned",
    "Credit",
    "Ack",
    "Nack",
    "Fetch",
    "Described",
)
OFFER = control.Welcome(frames.VERSION, 1 << 16, "fuzz", "memory")


def one_input(data: bytes) -> None:
    """The first byte chooses what reads the rest."""
    if not data:
        return
    what, rest = data[0], data[1:]
    if what < 64:
        _parse_frames(rest, what + 1)
    elif what < 128:
        _parse_batches(rest)
    elif what < 192:
        _parse_body(rest, getattr(control, KINDS[what % len(KINDS)]))
    else:
        _connect(rest, what)


def _parse_frames(data: bytes, step: int) -> None:
    """However the bytes are cut, the same frames come out, and the same verdict."""
    whole, cut = frames.FrameParser(), frames.FrameParser()
    expected = [(f.opcode, f.flags, f.correlation, f.channel, bytes(f.body)) for f in whole.feed(data)]
    found = []
    for at in range(0, len(data), step):
        found += [
            (f.opcode, f.flags, f.correlation, f.channel, bytes(f.body))
            for f in cut.feed(data[at : at + step])
        ]
    if found != expected or str(whole.failed) != str(cut.failed):
        raise AssertionError(f"in one piece {expected} {whole.failed}, in pieces {found} {cut.failed}")
    again = b"".join(
        frames.frame_header(opcode, len(body), correlation, channel, flags) + body
        for opcode, flags, correlation, channel, body in expected
    )
    if not data.startswith(again):
        raise AssertionError("accepted frames are not written back the same")


def _parse_batches(data: bytes) -> None:
    try:
        found = batches.split(data)
    except BatchError:
        return
    if b"".join(batch.data for batch in found) != data:
        raise AssertionError("the batches do not cover the bytes")


def _parse_body(data: bytes, kind: type[msgspec.Struct]) -> None:
    try:
        body = control.decode(data, kind)
    except RemoteProtocolError:
        return
    if control.decode(control.encode(body), kind) != body:
        raise AssertionError(f"{body} is not written back the same")


def _connect(data: bytes, what: int) -> None:
    role = connection.Role.CLIENT if what & 1 else connection.Role.BROKER
    end = connection.Connection(role, OFFER)
    if what & 2:
        if role is connection.Role.CLIENT:
            opcode, body = frames.Opcode.WELCOME, control.encode(OFFER)
        else:
            opcode, body = frames.Opcode.HELLO, control.encode(control.Hello([frames.VERSION]))
        end.receive(frames.frame_header(opcode, len(body)) + body)
    half = len(data) // 2
    for piece in (data[:half], data[half:]):
        end.receive(piece)
    if end.state is connection.State.CLOSED and not isinstance(end.fault, PortaskError):
        raise AssertionError("closed without a reason")


def seeds() -> list[bytes]:
    """Valid inputs to start from."""
    batch = batches.build(b"record", 1, codec=1, base_timestamp=5)
    bodies = [
        control.encode(control.Hello([frames.VERSION])),
        control.encode(OFFER),
        control.encode(control.Error("broker", "no", 1, 2)),
        control.encode(control.Subscribe("a.>", 1, 2, 3, 4, 5)),
        control.encode(control.Ack([(1, 2)])),
    ]
    opcodes = frames.Opcode
    framed = [frames.frame_header(opcodes.PUBLISH, len(batch), 1, 1) + batch]
    for opcode, body in zip(
        (opcodes.HELLO, opcodes.WELCOME, opcodes.ERROR, opcodes.SUBSCRIBE, opcodes.ACK), bodies, strict=True
    ):
        framed.append(frames.frame_header(opcode, len(body), 1, 1) + body)
    framed.append(frames.frame_header(200, 0, 5))
    found = [b"\x06" + b"".join(framed), b"\x40" + batch + batch]
    found += [bytes((128 + index,)) + body for index in range(len(KINDS)) for body in bodies]
    found += [bytes((what,)) + frame for what in (192, 193, 194, 195) for frame in framed]
    return found


if __name__ == "__main__":
    import atheris

    for seed in seeds():
        one_input(seed)
    with atheris.instrument_imports(include=["portask.wire"]):
        for module in (frames, batches, control, connection):
            importlib.reload(module)
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
