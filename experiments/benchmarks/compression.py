from benchmarks.suite import Timed, Tracked


class Pack(Timed):
    workload = "compression.pack"


class Unpack(Timed):
    workload = "compression.unpack"


class Ratio(Tracked):
    workload = "compression.pack"
    metric = "ratio"


class SaturatedCost(Tracked):
    workload = "compression.trace"
    metric = "saturated_cost"
