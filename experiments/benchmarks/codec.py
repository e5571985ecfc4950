from benchmarks.suite import Timed, Tracked


class Encode(Timed):
    workload = "codec.encode"


class Decode(Timed):
    workload = "codec.decode"


class RoundTrip(Timed):
    workload = "codec.roundtrip"


class Size(Tracked):
    workload = "codec.encode"
    metric = "size"


class Held(Tracked):
    workload = "allocation.codec"
    metric = "held"


class Blocks(Tracked):
    workload = "allocation.codec"
    metric = "blocks"
