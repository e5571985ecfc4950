from benchmarks.suite import Timed, Tracked


class Single(Timed):
    workload = "ring.single"


class Batched(Timed):
    workload = "ring.batched"


class Threads(Tracked):
    workload = "ring.handoff"
    metric = "rate"


class Processes(Tracked):
    workload = "ring.handoff_processes"
    metric = "rate"


class Hop(Tracked):
    workload = "ring.hop"
    metric = "p50"


class Held(Tracked):
    workload = "allocation.ring"
    metric = "held"
