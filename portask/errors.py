"""Every error Portask raises on purpose.

::

    PortaskError
    ├── ConfigError                 a setting is wrong: names the file, the key, the value and the fix
    ├── VariantError
    │   ├── UnknownVariant          no such name in the family; lists the names that exist
    │   └── VariantUnavailable      its library is missing; says the pip line that brings it
    ├── ProtocolError
    │   ├── LocalProtocolError      we misused the protocol: our bug
    │   └── RemoteProtocolError     the peer did: its bug, or garbage on the wire
    │       └── FrameTooLarge       a body above the negotiated limit; refused before it is buffered
    ├── BatchError                  a record batch that must not be stored or delivered
    │   ├── BatchCorrupt            checksum, lengths or structure are wrong
    │   ├── BatchTooLarge           more raw bytes declared than the limit allows
    │   └── UnknownCompression      needs an algorithm or dictionary that is not here
    ├── CodecError                  bytes are no record of this codec, or a message cannot be encoded
    ├── RingError
    │   ├── RingFull                carries the record that did not fit
    │   ├── RingEmpty               nothing to take now
    │   └── RingClosed              the other side is gone for good
    ├── PoolError                   a buffer was given back twice, or was never taken here
    ├── WorkersFull                 the bounded queue is full: push back, or run the step inline
    ├── StorageError
    │   ├── StorageFull             no room: publishing is refused, consuming goes on
    │   ├── OffsetOutOfRange        before the first or after the next offset; carries both
    │   ├── UnknownPartition        nothing was ever appended or opened there
    │   ├── StorageUnavailable      the server that keeps the records does not answer now; it may be asked again
    │   └── AlreadyStored           a numbered batch came before; carries its offset
    ├── BrokerError                 the broker answered ERROR to a request
    │   ├── UnknownTopic
    │   ├── InvalidTopic            not a topic name or not a filter; says which character and why
    │   ├── UnknownGroup            no consumer group of that name
    │   ├── AuthenticationFailed    the broker asks who is there, and was shown nothing that it knows
    │   ├── NotPermitted            a limit or a rule of this broker forbids it
    │   ├── OutOfSequence           a producer's numbers leave something out; nothing was stored
    │   ├── Fenced                  the producer's id is used with a newer epoch: somebody took over
    │   └── Draining                the broker is going away; publish elsewhere or later
    └── ClientError
        ├── NotConnected            closed by the caller, or reconnecting is off and the link is gone
        ├── ConnectFailed           no address answered in time; names each with its reason
        │   └── TlsFailed           one did, and TLS with it failed: its certificate, or ours, or the version
        ├── RequestTimeout          no answer within the deadline; the request may or may not have happened
        └── BufferExhausted         more is waiting to be sent than the producer may hold

Each class has a ``code``: the text that stands in an ERROR frame's body. `from_code` turns it back.
"""

from __future__ import annotations

from typing import Any, ClassVar


class PortaskError(Exception):
    """The root: ``except PortaskError`` catches everything that Portask raises on purpose."""

    code: ClassVar[str] = "error"


class ConfigError(PortaskError):
    """A setting is wrong. The text names the file, the key, the value and the fix."""

    code = "config"


class VariantError(PortaskError):
    """A variant was asked for by name and cannot be had."""

    code = "variant"


class UnknownVariant(VariantError):
    """No variant of that name in the family."""

    code = "unknown-variant"


class VariantUnavailable(VariantError):
    """The variant exists, and a library it needs does not."""

    code = "variant-unavailable"


class ProtocolError(PortaskError):
    """The wire protocol was broken; `LocalProtocolError` and `RemoteProtocolError` say by whom."""

    code = "protocol"


class LocalProtocolError(ProtocolError):
    """We were about to send what the protocol forbids in this state: a bug on our side."""

    code = "local-protocol"


class RemoteProtocolError(ProtocolError):
    """The peer sent what the protocol forbids. The connection cannot go on."""

    code = "remote-protocol"


class FrameTooLarge(RemoteProtocolError):
    """A frame header announces a body above the limit in force. Nothing of it was buffered."""

    code = "frame-too-large"


class BatchError(PortaskError):
    """A record batch that must not be stored or delivered."""

    code = "batch"


class BatchCorrupt(BatchError):
    """The checksum, a length or the structure of a batch is wrong."""

    code = "batch-corrupt"


class BatchTooLarge(BatchError):
    """A batch declares, or unfolds to, more raw bytes than the limit allows."""

    code = "batch-too-large"


class UnknownCompression(BatchError):
    """The batch needs a compression algorithm or a dictionary that is not installed here."""

    code = "unknown-compression"


class CodecError(PortaskError):
    """The bytes are no record of this codec, or the message cannot be encoded by it."""

    code = "codec"


class RingError(PortaskError):
    """What a ring could not do."""

    code = "ring"


class RingFull(RingError):
    """There is no room now. ``record`` is what did not fit: nothing is lost."""

    code = "ring-full"

    def __init__(self, record: Any) -> None:
        super().__init__("ring is full")
        self.record = record


class RingEmpty(RingError):
    """There is nothing to take now."""

    code = "ring-empty"


class RingClosed(RingError):
    """The ring was closed by either side; what was put before can still be taken."""

    code = "ring-closed"


class PoolError(PortaskError):
    """A buffer was given back twice, or to a pool that it was not taken from."""

    code = "pool"


class WorkersFull(PortaskError):
    """The bounded queue of steps is full."""

    code = "workers-full"


class StorageError(PortaskError):
    """The storage could not do what was asked."""

    code = "storage"


class StorageFull(StorageError):
    """No room for this append. Reading goes on; appends work again after a trim."""

    code = "storage-full"


class OffsetOutOfRange(StorageError):
    """The offset is before ``first`` or after ``next``."""

    code = "offset-out-of-range"

    def __init__(self, message: str, first: int = 0, next: int = 0) -> None:  # noqa: A002 - the log's own term
        super().__init__(message)
        self.first = first
        self.next = next


class UnknownPartition(StorageError):
    """Nothing was ever appended or opened there."""

    code = "unknown-partition"


class StorageUnavailable(StorageError):
    """The server that keeps the records could not be reached in time. What was asked may or may not have been done."""

    code = "storage-unavailable"


class AlreadyStored(StorageError):
    """A storage that checks the numbers of producers has this batch already, from ``offset`` on.

    Between a storage and its broker, for which it is no failure. -1: it is stored, and nobody remembers where.
    """

    code = "already-stored"

    def __init__(self, message: str, offset: int = -1) -> None:
        super().__init__(message)
        self.offset = offset


class BrokerError(PortaskError):
    """The broker refused a request."""

    code = "broker"


class UnknownTopic(BrokerError):
    """The topic does not exist and this request does not create it."""

    code = "unknown-topic"


class InvalidTopic(BrokerError):
    """Not a topic name, or not a filter."""

    code = "invalid-topic"


class UnknownGroup(BrokerError):
    """There is no consumer group of that name."""

    code = "unknown-group"


class AuthenticationFailed(BrokerError):
    """The broker asks for a token or a certificate, and none that it knows was shown."""

    code = "authentication-failed"


class NotPermitted(BrokerError):
    """A limit or a rule of this broker forbids it."""

    code = "not-permitted"


class OutOfSequence(BrokerError):
    """A batch of an idempotent producer does not follow what the broker has of it. The batch was not stored.

    Either the broker lost what it had acknowledged, or two clients publish with one producer id and epoch.
    """

    code = "out-of-sequence"


class Fenced(BrokerError):
    """Somebody publishes with this producer id and a newer epoch, or did so with this very epoch before."""

    code = "fenced"


class Draining(BrokerError):
    """The broker is going away: it finishes what it has and takes nothing new."""

    code = "draining"


class ClientError(PortaskError):
    """The client could not do what was asked; the broker did not refuse it."""

    code = "client"


class NotConnected(ClientError):
    """The client was closed, or the link is gone and reconnecting is off or gave up."""

    code = "not-connected"


class ConnectFailed(ClientError):
    """No address answered in time. The text names each address and its reason."""

    code = "connect-failed"


class TlsFailed(ConnectFailed):
    """A broker was reached, and there is no TLS with it: a certificate is not good, or it does not speak TLS."""

    code = "tls-failed"


class RequestTimeout(ClientError):
    """No answer came within the deadline; the request may or may not have been carried out."""

    code = "timeout"


class BufferExhausted(ClientError):
    """More bytes wait to be sent than the producer may hold."""

    code = "buffer-exhausted"


def _tree(root: type[PortaskError]) -> dict[str, type[PortaskError]]:
    found = {root.code: root}
    for child in root.__subclasses__():
        found.update(_tree(child))
    return found


_BY_CODE = _tree(PortaskError)


def from_code(code: str, message: str) -> PortaskError:
    """The exception for an ERROR body's code; a code from a newer peer becomes a plain `BrokerError`."""
    return _BY_CODE.get(code, BrokerError)(message)
