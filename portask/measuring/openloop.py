"""Open loop: what is sent when depends on the schedule alone, never on the broker. The rules by which a run counts.

Latency is counted from the moment at which a message was to be sent: a generator that waits for a slow broker and
counts from the actual send leaves out the very waiting that a user sees ("coordinated omission"). So a generator that
was late itself must be noticed, and its run be void.
"""

from __future__ import annotations

MARGIN_NS = 5_000_000
"""The generator sleeps until so long before the next send, then spins: a core that went to sleep comes back late
and with cold caches, and a virtual one may have lost its turn. From 200 sends a second on it never sleeps."""
WARM_UP = 0.2
"""Share of the schedule that is discarded, by intended time. Fixed: nothing looks at it."""
LATE_NS = 1_000_000
"""A send that begins so much after its intended time is late."""
LATE_SHARED_NS = 10_000_000
"""The same where the generator may only sleep (CPU is measured then, what counts is the rate), and where it shares an
event loop with the client under test, whose own delays these may be: they count as latency, as all do."""
LATE_SHARE = 0.01
"""More late sends than this void the run: the generator could not keep up."""
REACHED = 0.99
"""The least share of the due messages that must arrive within the window."""
DRAIN_SECONDS = 5.0
"""How long the last messages may take after the schedule's end. Then they are lost."""


def judge(due: int, arrived: int, sends: int, *, late: int, worst: int, limit: int) -> str:
    """Why a run is void; empty if it counts.

    Args:
        due: Messages that were to arrive in the window.
        arrived: Those that did.
        sends: How often something was sent for the window.
        late: How many of the sends began more than ``limit`` after their time.
        worst: ns by which the latest of them was late.
        limit: ns beyond which a send is late: `LATE_NS` or `LATE_SHARED_NS`.
    """
    if not due or not sends:
        return "nothing was due within the window: the run is too short for its rate"
    if arrived < REACHED * due:
        return f"only {arrived / due:.1%} of the intended rate arrived ({REACHED:.0%} wanted)"
    if late > LATE_SHARE * sends:
        return (
            f"the generator was late: {late / sends:.1%} of its sends began over {limit / 1e6:g} ms after their "
            f"time, the worst {worst / 1e6:.1f} ms"
        )
    return ""
