from benchmarks.suite import Timed, Tracked


class Append(Timed):
    workload = "storage.append"


class Read(Timed):
    workload = "storage.read"


class Growth(Tracked):
    workload = "storage.queued"
    metric = "growth"
