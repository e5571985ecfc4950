"""The suites of the lab: what each asks, and how much time it may take.

What a suite runs is declared beside the work itself, in the `PLANS` of each module of
`portask_lab.workloads`; here are the names, the questions, the budgets, and how plans become jobs.

Budgets, seconds of wall time on two cores. Profile ``full`` takes three and three quarter hours; ``quick`` ends
within 4 minutes, everything included:

============================================  =======  ==================================================
conformance                                      20    every variant, in processes of their own
serialization, memory                            29
latency, connections, cpu, throughput, scaling  103    servers, load generators, peers
storage, compression                             40    storage with brokers and peers
rings, workers, pools, allocation                33
statistics, report and figures                   10
============================================  =======  ==================================================

They bind (`portask_lab.meter`): whatever a suite has, it begins no block that would overrun its time, and one that
has fewer than `Suite.blocks` by then says that it is incomplete. It ends earlier when every ratio's interval is
narrower than `Profile.width`. What suites leave of their time goes, at the end, to those that lack a block. Another
variant costs its family's suites a second or two a block. The suites that criteria are judged on come first: on a
machine so slow that the time is up before all of them began, it is the others that are not reached.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from portask.errors import ConfigError
from portask_lab import workloads
from portask_lab.workloads import Plan, Workload

Scalar = str | int | float | bool | None

CONFORMANCE_SECONDS = 20.0
"""What checking every variant may take."""
REPORT_SECONDS = 10.0
"""What verdicts, statistics and the report may take, once everything is measured."""


class Suite(msgspec.Struct, frozen=True):
    """One suite.

    Attributes:
        name: As on the command line.
        title: Heading of its chapter in the report.
        question: What a reader wants to know.
        quick: Budget in profile ``quick``, seconds.
        full: Budget in profile ``full``, seconds.
        least: The least number of valid blocks in (quick, full), where it is not the profile's: suites whose
            blocks are long, or whose figures hardly vary.
        timed: False for suites that count bytes or sockets: a busy neighbour does not change those, so the noise
            rule voids none of their blocks. The ledger is kept all the same.
        usual: Profile of a run that is asked for this suite and not for a profile. What decides a suite's criterion
            may be too long for ``quick``.
    """

    name: str
    title: str
    question: str
    quick: float
    full: float
    least: tuple[int, int] | None = None
    timed: bool = True
    usual: str = "quick"

    def budget(self, profile: Profile) -> float:
        """Seconds of wall time that the suite may take."""
        return self.quick if profile.name == "quick" else self.full

    def blocks(self, profile: Profile) -> int:
        """The least number of valid blocks."""
        if self.least is None:
            return profile.blocks
        return self.least[0 if profile.name == "quick" else 1]


class Profile(msgspec.Struct, frozen=True):
    """How thoroughly a run measures.

    Attributes:
        name: ``quick`` or ``full``.
        blocks: The least number of valid blocks a suite.
        most: Never more blocks than this.
        width: A suite may stop when every ratio's interval is narrower than this (0.04: ±2%).
        seconds: Measuring time of one job in one process, unless its plan says otherwise.
        samples: Timed samples a job and process.
        messages: Messages of a corpus that are used.
    """

    name: str
    blocks: int
    most: int
    width: float
    seconds: float
    samples: int
    messages: int


QUICK = Profile("quick", blocks=4, most=12, width=0.04, seconds=0.024, samples=4, messages=2_000)
FULL = Profile("full", blocks=6, most=40, width=0.02, seconds=0.25, samples=15, messages=10_000)
PROFILES = {profile.name: profile for profile in (QUICK, FULL)}

SUITES = {
    suite.name: suite
    for suite in (
        Suite(
            "serialization",
            "Serialization",
            "How fast do messages become bytes, and bytes messages?",
            18,
            460,
        ),
        Suite(
            "memory",
            "Memory of queued messages",
            "How much memory do 100,000 waiting messages take?",
            11,
            150,
            (2, 5),
            timed=False,
        ),
        Suite(
            "latency",
            "End-to-end latency",
            "How long does a message take, under which load?",
            34,
            1300,
            (2, 3),
        ),
        Suite(
            "connections",
            "Connections",
            "How many clients can be connected, all alive?",
            10,
            1300,
            (1, 1),
            timed=False,
            usual="full",
        ),
        Suite("cpu", "CPU", "What does the broker cost at 50,000 messages a second?", 24, 3300, (2, 3)),
        Suite(
            "throughput",
            "Network throughput",
            "How many messages a second go from client to client?",
            28,
            1300,
            (2, 3),
        ),
        Suite(
            "scaling",
            "Scaling and fairness",
            "What becomes of throughput and latency when one thing grows, and of quiet clients beside a loud one?",
            7,
            2500,
            (1, 2),
        ),
        Suite(
            "storage",
            "Storage",
            "How fast are batches stored, acknowledged and read, and a log found again?",
            28,
            2100,
            (2, 3),
        ),
        Suite("compression", "Compression", "What does a smaller batch cost?", 12, 500, (3, 6)),
        Suite("rings", "Rings", "How fast do records cross between threads and processes?", 15, 360, (3, 6)),
        Suite(
            "workers",
            "Workers",
            "What does it cost to leave the loop, and what does it bring?",
            8,
            130,
            (3, 6),
        ),
        Suite("pools", "Buffer pools", "What does a buffer cost?", 3, 60),
        Suite(
            "allocation",
            "Allocation",
            "How much memory does a message touch on its way?",
            7,
            100,
            (2, 5),
            timed=False,
        ),
    )
}


class Job(msgspec.Struct, frozen=True):
    """One workload with one set of parameters: what a measuring process is told to do.

    Attributes:
        workload: `Workload.name`.
        params: Its parameters; ``corpus`` among them when it has one.
        seconds: How long to measure.
        samples: Timed samples (not for workloads that measure themselves).
        group: Jobs of one group share a process.
        controlled: Whether the A/A control runs it.
        applies: Capability that a variant must claim for it, or empty.
    """

    workload: str
    params: dict[str, Scalar]
    seconds: float
    samples: int
    group: str
    controlled: bool
    applies: str = ""


def choose(names: Sequence[str] | None) -> list[Suite]:
    """The suites of these names, in the lab's order; all for ``None``.

    Raises:
        ConfigError: a name that does not exist.
    """
    unknown = [name for name in names or () if name not in SUITES]
    if unknown:
        raise ConfigError(f"there is no suite {unknown[0]!r}; the suites are {', '.join(SUITES)}")
    return [suite for suite in SUITES.values() if names is None or suite.name in names]


def usual(names: Sequence[str] | None) -> str:
    """The profile of a run of these suites that was not asked for one."""
    return "full" if names and all(suite.usual == "full" for suite in choose(names)) else "quick"


def jobs(
    suite: Suite, profile: Profile, real: Sequence[str], plans: Iterable[Plan] | None = None
) -> list[Job]:
    """Everything that ``suite`` runs in ``profile``.

    Args:
        suite: Which.
        profile: How thoroughly.
        real: Names of the real corpora of this run: the built-in ones, or the user's own.
        plans: For tests; the declared ones by default.
    """
    made: list[Job] = []
    quick = profile.name == "quick"
    for plan in workloads.plans() if plans is None else plans:
        if plan.suite != suite.name:
            continue
        parameters = plan.quick if quick or plan.full is None else plan.full
        selectors = plan.corpora if quick or plan.full_corpora is None else plan.full_corpora
        seconds = plan.seconds[0 if quick else 1] if plan.seconds else profile.seconds
        for number, params in enumerate(parameters):
            for corpus in _corpora(selectors, real):
                chosen: dict[str, Scalar] = {"corpus": corpus} if corpus else {}
                chosen.update(params)
                group = (
                    f"{plan.workload}#{number}{corpus}" if plan.alone else workloads.get(plan.workload).family
                )
                made.append(
                    Job(plan.workload, chosen, seconds, profile.samples, group, plan.controlled, plan.applies)
                )
    return made


def families(suite_jobs: Iterable[Job]) -> list[str]:
    """The families that these jobs compare, in order of appearance."""
    return list(dict.fromkeys(workloads.get(job.workload).family for job in suite_jobs))


def workload(job: Job) -> Workload:
    """The workload of a job."""
    return workloads.get(job.workload)


def _corpora(selectors: Sequence[str], real: Sequence[str]) -> list[str]:
    if not selectors:
        return [""]
    chosen: list[str] = []
    for selector in selectors:
        chosen += {"real": list(real), "main": list(real[:1])}.get(selector, [selector])
    return list(dict.fromkeys(chosen))
