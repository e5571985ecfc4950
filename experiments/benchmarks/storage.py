from benchmarks.suite import Timed, Tracked


class Append(Timed):
    workload = "storage.append"


class Read(Timed):
    workload = "storage.read"


class Growth(Tracked):
    workload = "storage.queued"
    metric = "growth"


class Acks(Tracked):
    workload = "storage.acks"
    metric = "rate"


class AckLatency(Tracked):
    workload = "storage.acks"
    metric = "p99"


class Recovery(Tracked):
    workload = "storage.recovery"
    metric = "time"


class Published(Tracked):
    workload = "storage.published"
    metric = "rate"
    seconds = 0.5
