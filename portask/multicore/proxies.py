"""What a proxy handles: what any session does, and what only its home can say."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import msgspec

from portask.core import requests, subscribing
from portask.core.session import Session
from portask.errors import PortaskError
from portask.multicore.links import Aside
from portask.wire import control
from portask.wire.frames import Frame, Opcode

if TYPE_CHECKING:
    from portask.multicore.broker import WorkerBroker


def _subscribe(broker: WorkerBroker, session: Session, frame: Frame) -> None:
    body = control.decode(frame.body, control.Subscribe)
    answer = subscribing.answer_subscribe(broker, session, frame)
    try:
        broker.subscribe(session, frame.channel, body, frame.flags, answer)
    except PortaskError as error:
        answer(0, error)


def _grant(broker: WorkerBroker, session: Session, frame: Frame) -> None:
    amounts = msgspec.msgpack.decode(frame.body, type=tuple[int, int, int])
    broker.credits.granted(session, frame.channel, amounts)


def _recall(broker: WorkerBroker, session: Session, frame: Frame) -> None:
    broker.credits.recalled(session, frame.channel)


def _drain(broker: WorkerBroker, session: Session, _frame: Frame) -> None:
    session.connection.drain()  # what is under way is finished, and the end of the turn answers
    broker.mark(session)


_OWN: dict[int, Callable[[WorkerBroker, Session, Frame], None]] = {
    Opcode.SUBSCRIBE: _subscribe,
    Opcode.DRAIN: _drain,
    Aside.GRANT: _grant,
    Aside.RECALL: _recall,
}
PROXY = {**requests.HANDLERS, **cast("requests.Handlers", _OWN)}  # proxies are a worker's
