"""The durable log that ships with the broker: segments of record batches in a folder.

`segment_log` is where to begin reading; `partition`, `reading` and `recovery` hold what is hard.
"""

from portask.storage.options import why_not
from portask.storage.segment_log import SegmentLog

__all__ = ["SegmentLog", "why_not"]
