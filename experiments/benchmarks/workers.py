from benchmarks.suite import Timed, Tracked


class Steps(Timed):
    workload = "workers.steps"


class Overhead(Timed):
    workload = "workers.overhead"


class Beside(Tracked):
    workload = "workers.beside"
    metric = "rate"
