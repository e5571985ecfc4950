from benchmarks.suite import Timed


class Steps(Timed):
    workload = "workers.steps"


class Overhead(Timed):
    workload = "workers.overhead"
