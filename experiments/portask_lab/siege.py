"""A broker under attack, and somebody beside it who only wants an answer: what do the attackers cost, and whom?

Each assault goes on for some seconds, at a broker with tokens and limits: `portask serve`, as a user would run it;
where the server can encrypt, at a second one with TLS. What must hold for each:

- Every PING of a bystander, who was connected before, is answered within the patience.
- The broker's memory does not grow by more than its settings allow (`Assault.bound` says which), and comes back.
- It is alive, all its processes are those that they were, and a message gets through before and afterwards.
- Whoever was refused is in the log, once, with a reason. Two things are promised in sum: wrong tokens of one address
  are told one by one ten times and counted then; failed TLS handshakes likewise, and without the address, which the
  standard library does not tell.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import msgspec

import portask.sync
from portask import registry
from portask.config import Settings
from portask.core.dead_letters import MOST
from portask.core.session import ANSWERS_LIMIT
from portask.errors import PortaskError
from portask.wire.frames import HELLO_LIMIT
from portask_lab.loadgen.besieger import Besieger, Order, Report
from portask_lab.loadgen.bystander import Bystander
from portask_lab.loadgen.guarded import FOE, FRIEND, HELLO_SECONDS, Guarded, Line

PATIENCE = 1.0
"""Seconds within which a PING is to be answered."""
SLACK = 16 << 20
"""Bytes that a process may have more than before for no reason of the assault: allocators, caches, log lines."""
CONNECTION = 16 << 10
"""Bytes that one connection may cost beside what its client may send: its session, its socket, its task."""
ENCRYPTED = 112 << 10
"""Bytes that TLS may cost a connection on top: OpenSSL's state, and the buffers of the event loop."""
SUBSCRIPTION = 4 << 10
"""Bytes that one subscription may cost, with its cursors."""
MESSAGES = "messages"
_LOOK_EVERY = 0.1
_COME_BACK = 5.0
"""Seconds that memory may take to come back."""
_LOG_SECONDS = 14.0
"""Within which everything is in the log: failures are counted for 10 s, and the timers are looked at once a second."""
_ANSWER_SECONDS = 20.0
Watch = Callable[[str, float, float], None]
Logged = Literal["each", "address", "handshakes"]


class Assault(msgspec.Struct, frozen=True):
    """What is done.

    Attributes:
        name: What the besieger calls it.
        count: Connections at once, or attempts a second.
        logged: What is promised of the log: a line for each offender, or a count for their address, or for all failed
            handshakes.
        encrypted: At the broker with TLS.
        rate: ``count`` is a rate.
    """

    name: str
    count: int
    logged: Logged = "each"
    encrypted: bool = False
    rate: bool = False

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.name}, TLS" if self.encrypted else self.name

    def connections(self, settings: Settings) -> int:
        """Most that the broker has of it at a time: it hangs up after the time for HELLO, and looks once a second."""
        limits = settings.limits
        most = round(self.count * (limits.hello_timeout_s + 1)) if self.rate else self.count
        return min(most, limits.max_connections)

    def bound(self, settings: Settings, processes: int) -> int:
        """Bytes by which the broker's memory may grow, by its settings."""
        limits = settings.limits
        slack = SLACK * processes
        if self.name == "bombs":  # what is stored, and two batches that are unfolded at a time
            return slack + settings.memory.max_bytes + 2 * limits.max_raw_bytes
        if self.name == "subscriptions":
            return slack + limits.max_channels * SUBSCRIPTION + ANSWERS_LIMIT * processes
        each = HELLO_LIMIT + CONNECTION + (ENCRYPTED if self.encrypted else 0)
        return slack + self.connections(settings) * each

    def rest(self, settings: Settings, processes: int) -> int:
        """Bytes that may be left of it: allocators keep what small objects lay in, and use it again."""
        slack = SLACK * processes
        if (
            self.name == "bombs"
        ):  # what is stored, and the room of a batch that was opened, which allocators keep
            return slack + settings.memory.max_bytes + MOST
        return slack + self.connections(settings) * HELLO_LIMIT


class Scale(msgspec.Struct, frozen=True):
    """How many.

    Attributes:
        slow: Connections that trickle.
        half_open: Connections that say nothing.
        guesses: Wrong tokens a second.
        garbage: Garbage a second.
        oversized: Connections that send too large a frame, at once.
    """

    slow: int = 300
    half_open: int = 10_000
    guesses: int = 1000
    garbage: int = 200
    oversized: int = 1000

    def assaults(self, *, encrypted: bool) -> list[Assault]:
        """In the order in which they are made, at a broker with TLS or without."""
        if encrypted:
            return [
                Assault("slow handshake", self.slow, "handshakes", encrypted=True),
                Assault("half-open", self.half_open, "handshakes", encrypted=True),
                Assault("garbage", self.garbage, "handshakes", encrypted=True, rate=True),
            ]
        return [
            Assault("slow HELLO", self.slow),
            Assault("half-open", self.half_open),
            Assault("subscriptions", 0),
            Assault("wrong token", self.guesses, "address", rate=True),
            Assault("oversized", self.oversized),
            Assault("bombs", 0),  # last: dead letters are still made of them when it is over
        ]


class Round(msgspec.Struct, kw_only=True):
    """One assault, and what came of it. Sizes in bytes, times in seconds.

    Attributes:
        assault: Which.
        seconds: How long it went on.
        attempts: Connections, or requests.
        left: Connections that the broker did not hang up on.
        answered: PINGs of the bystander.
        worst: Its worst answer.
        unanswered: Why the bystander could not go on.
        bound: How much memory may grow.
        growth: How much it did, at the most.
        allowed: How much may be left of it.
        rest: How much was.
        changed: What became of the broker's processes.
        lost: What became of the messages.
        due: Offenders that had to be in the log.
        lines: Lines in the log about them.
        told: Offenders that are in the log, by name or in a count.
        twice: Those that have several lines.
        bare: Lines without a reason.
        said: What the broker said to the offenders → how often.
    """

    assault: str
    seconds: float
    attempts: int
    left: int = 0
    answered: int = 0
    worst: float = 0.0
    unanswered: str = ""
    bound: int = 0
    growth: int = 0
    allowed: int = 0
    rest: int = 0
    changed: str = ""
    lost: str = ""
    due: int = 0
    lines: int = 0
    told: int = 0
    twice: int = 0
    bare: int = 0
    said: dict[str, int] = {}

    def faults(self, patience: float) -> list[str]:
        """The promises that were broken, in words."""
        found = []
        if self.unanswered:
            found.append(f"the bystander: {self.unanswered}")
        elif not self.answered:
            found.append("the bystander had no answer at all")
        elif self.worst > patience:
            found.append(
                f"the bystander waited {self.worst:.2f} s for an answer, {patience:g} s is its patience"
            )
        if not self.attempts:
            found.append("nobody attacked, so nothing was proven")
        if self.growth > self.bound:
            found.append(f"memory grew by {self.growth:,} bytes, the settings allow {self.bound:,}")
        if self.rest > self.allowed:
            found.append(f"{self.rest:,} bytes of memory did not come back, {self.allowed:,} may stay")
        if self.left:
            found.append(f"{self.left:,} connections were not hung up on")
        found += [text for text in (self.changed, self.lost) if text]
        if self.told != self.due:
            found.append(f"the log tells of {self.told:,} offenders, there were {self.due:,}")
        if self.twice:
            found.append(f"{self.twice:,} offenders are in the log more than once")
        if self.bare:
            found.append(f"{self.bare:,} lines of the log give no reason")
        return [f"{self.assault}: {text}" for text in found]


class Findings(msgspec.Struct, kw_only=True):
    """What came out.

    Attributes:
        server: The variant.
        workers: Processes that share the work.
        patience: Seconds.
        rounds: One an assault.
    """

    server: str
    workers: int
    patience: float
    rounds: list[Round]

    def faults(self) -> list[str]:
        """The promises that were broken, in words."""
        return [fault for each in self.rounds for fault in each.faults(self.patience)]


def drill(
    *,
    server: str = "epoll",
    workers: int = 1,
    seconds: float = 5.0,
    patience: float = PATIENCE,
    scale: Scale = Scale(),  # noqa: B008 - it is frozen
    watch: Watch = lambda _text, _done, _left: None,
) -> Findings:
    """Makes every assault, one after the other.

    Args:
        server: The variant.
        workers: Processes that share the work.
        seconds: How long each assault goes on; some take a little longer.
        patience: Seconds within which a PING is to be answered.
        scale: How many.
        watch: Told what goes on: in words, the share that is over, seconds left.

    Raises:
        VariantError: there is no such server, or it cannot run here.
        PortaskError: the broker does not start, or an assault cannot be made.
    """
    entry = registry.get("server", server)
    entry.load()  # what is wrong with it is said here, not by a process that ends
    encrypts = "tls" in entry.capabilities
    sieges = [scale.assaults(encrypted=False)]
    if encrypts:
        sieges.append(scale.assaults(encrypted=True))
    total = sum(map(len, sieges))
    rounds: list[Round] = []
    for assaults in sieges:
        with _Siege(server, workers, encrypted=assaults[0].encrypted) as siege:
            for assault in assaults:
                left = (total - len(rounds)) * (seconds + HELLO_SECONDS + 2)
                watch(assault.title, len(rounds) / total, left)
                rounds.append(siege.make(assault, seconds))
            siege.audit()
    return Findings(server=server, workers=workers, patience=patience, rounds=rounds)


class _Siege:
    """One broker with everybody around it. A context manager: its end ends them."""

    def __init__(self, server: str, workers: int, *, encrypted: bool) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="portask-siege-")
        self._made: list[tuple[Assault, Round, Report]] = []
        self._source = 30
        try:
            broker = self._broker = Guarded(Path(self._folder.name), server, workers, encrypted=encrypted)
            token = broker.tokens[FRIEND]
            # as many that each worker has some of them, wherever the kernel puts them
            connections = 4 * workers
            self._bystander = Bystander(broker.port, connections, token, broker.ca)
            self._besieger = Besieger(broker.port, broker.tokens[FOE])
            self._messenger = _Messenger(broker, token)
        except BaseException:
            self._folder.cleanup()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._messenger.close()
        self._besieger.__exit__(kind, error, trace)
        self._bystander.__exit__(kind, error, trace)
        self._broker.stop()
        self._folder.cleanup()

    def make(self, assault: Assault, seconds: float) -> Round:
        """One assault."""
        broker = self._broker
        self._source += 1
        processes = sorted(broker.processes())
        lost = self._messenger.carry()
        self._bystander.look()
        order = Order(assault.name, seconds, assault.count, self._source, HELLO_SECONDS + 10.0)
        with _Memory(broker) as memory:
            began = time.monotonic()
            self._besieger.begin(order)
            report = self._besieger.end()
            took = time.monotonic() - began
            allowed = assault.rest(broker.settings, len(processes))
            rest = memory.come_back(allowed)
        seen = self._bystander.look()
        now = sorted(broker.processes()) if broker.alive else []
        found = Round(
            assault=assault.title,
            seconds=took,
            attempts=report.attempts,
            left=len(report.left),
            answered=seen.answered,
            worst=seen.worst,
            unanswered=seen.error,
            bound=assault.bound(broker.settings, len(processes)),
            growth=memory.most - memory.base,
            allowed=allowed,
            rest=rest,
            changed="" if now == processes else f"the broker's processes are {now}, they were {processes}",
            lost=lost or self._messenger.carry(),
            said=report.said,
        )
        self._made.append((assault, found, report))
        return found

    def audit(self) -> None:
        """Reads the log until everything is in it that should be, or will not come any more."""
        until = time.monotonic() + _LOG_SECONDS
        while True:
            lines = self._broker.lines()
            self._handshakes(lines)
            for assault, found, report in self._made:
                if assault.logged == "each":
                    _by_peer(found, report.refused + report.offenders, lines)
                elif assault.logged == "address":
                    _by_address(found, report, lines)
            if all(found.told >= found.due for _, found, _ in self._made) or time.monotonic() > until:
                return
            time.sleep(0.25)

    def _handshakes(self, lines: Sequence[Line]) -> None:
        """Nobody knows whose they were: they are counted together, and the last assault stands for all."""
        made = [found for assault, found, _ in self._made if assault.logged == "handshakes"]
        if made:
            about = [line for line in lines if "TLS handshake" in line.event]
            last = made[-1]
            last.due = sum(found.attempts for found in made)
            last.lines = len(about)
            last.told = sum(line.count or 1 for line in about)
            last.bare = sum(not (line.reason or line.count) for line in about)


def _by_peer(found: Round, offenders: list[str], lines: Sequence[Line]) -> None:
    """A line for each. Who comes again from the same port is due again."""
    due = Counter(offenders)
    about = [line for line in lines if line.peer in due]
    said = Counter(line.peer for line in about)
    found.due = len(offenders)
    found.lines = len(about)
    found.told = sum(min(times, said[peer]) for peer, times in due.items())
    found.twice = sum(said[peer] > times for peer, times in due.items())
    found.bare = sum(not line.reason for line in about)


def _by_address(found: Round, report: Report, lines: Sequence[Line]) -> None:
    """Some lines, and a count of the others."""
    addresses = {peer.rpartition(":")[0] for peer in report.refused}
    single = [line for line in lines if line.peer.rpartition(":")[0] in addresses]
    sums = [line for line in lines if line.address in addresses]
    found.due = len(report.refused)
    found.lines = len(single) + len(sums)
    found.told = len(single) + sum(line.count for line in sums)
    came = Counter(report.refused)
    found.twice = sum(times > came[peer] for peer, times in Counter(line.peer for line in single).items())
    found.bare = sum(not line.reason for line in single)


class _Messenger:
    """Publishes, and receives what it published, on connections that stay."""

    def __init__(self, broker: Guarded, token: str) -> None:
        self._client = portask.sync.connect(broker.url, token=token, reconnect=False, ca=broker.ca)
        self._subscription = self._client.subscribe(MESSAGES)
        self._subscription.start()
        self._number = 0

    def carry(self) -> str:
        """One message; says what went wrong."""
        self._number += 1
        text = b"%d" % self._number
        try:
            self._client.publish(MESSAGES, text)
            got = self._subscription.get(_ANSWER_SECONDS).payload
        except (PortaskError, TimeoutError) as error:
            return f"a message did not get through: {error!r}"
        return "" if got == text else f"message {got!r} came instead of {text!r}"

    def close(self) -> None:
        self._client.close()


class _Memory(threading.Thread):
    """Watches the broker's private memory while the block lasts."""

    def __init__(self, broker: Guarded) -> None:
        super().__init__(daemon=True)
        self._broker = broker
        self._over = threading.Event()
        self.base = self.most = broker.private()

    def run(self) -> None:
        """Until the block's end."""
        while not self._over.wait(_LOOK_EVERY):
            try:
                self.most = max(self.most, self._broker.private())
            except OSError:  # a process is gone, which is told elsewhere
                return

    def come_back(self, allowed: int) -> int:
        """Waits until no more than that is left of the growth; what is left in the end."""
        until = time.monotonic() + _COME_BACK
        while True:
            try:
                rest = self._broker.private() - self.base
            except OSError:
                return 0
            if rest <= allowed or time.monotonic() > until:
                return rest
            time.sleep(_LOOK_EVERY)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self.join()
