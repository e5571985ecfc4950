from benchmarks.suite import Timed, Tracked


class TakeGive(Timed):
    workload = "pool.take_give"


class Blocks(Tracked):
    workload = "allocation.pool"
    metric = "blocks"
