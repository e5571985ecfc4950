from benchmarks.suite import Tracked


class Latency(Tracked):
    workload = "network.latency"
    metric = "p50"
    seconds = 0.7


class Tail(Tracked):
    workload = "network.latency"
    metric = "p99"
    seconds = 0.7


class ClientLatency(Tracked):
    workload = "network.client_latency"
    metric = "p50"
    seconds = 0.6


class Throughput(Tracked):
    workload = "network.throughput"
    metric = "rate"
    seconds = 0.5


class ClientThroughput(Tracked):
    workload = "network.client_throughput"
    metric = "rate"
    seconds = 0.6


class Cpu(Tracked):
    workload = "network.cpu"
    metric = "cpu"
    seconds = 2.0


class Scaling(Tracked):
    workload = "network.scaling"
    metric = "rate"
    seconds = 0.5


class Connection(Tracked):
    workload = "network.connections"
    metric = "memory"
