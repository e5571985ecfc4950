"""The asyncio client: `connect`, and the types it hands out."""

from portask.client.client import Client
from portask.client.connect import connect
from portask.client.members import GroupSubscription
from portask.client.options import Options
from portask.client.pending import Pending
from portask.client.producer import Producer
from portask.client.results import Delivered, DeliveredBatch, OffsetRange, PublishManyResult, Receipt
from portask.client.routes import partition_of
from portask.client.subscription import Subscription

__all__ = [
    "Client",
    "Delivered",
    "DeliveredBatch",
    "GroupSubscription",
    "OffsetRange",
    "Options",
    "Pending",
    "Producer",
    "PublishManyResult",
    "Receipt",
    "Subscription",
    "connect",
    "partition_of",
]
