"""What a broker finds again in its storage when it begins: topics, and the groups that wait at them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from portask.contracts import Catalog

if TYPE_CHECKING:
    from portask.core.broker import Broker


def restore(broker: Broker) -> None:
    """Makes the topics that the storage has records of or that a group waits at, and the groups."""
    storage = broker.storage
    saved = list(broker.groups.saved())
    known = storage.partitions() if isinstance(storage, Catalog) else ()
    most: dict[str, int] = {}
    for key in (*known, *(partition for _, partition, _ in saved)):
        most[key.topic] = max(most.get(key.topic, 0), key.partition + 1)
    options = broker.options
    if broker.shared is not None:
        for name, count in broker.shared.topics().items():
            broker.create(name, max(count, most.pop(name, 0)))
    for name, count in most.items():
        # partitions without a record leave no trace: the settings say how many there were at least
        broker.create(name, max(count, options.partitions.get(name, options.default_partitions)))
    for group, key, state in saved:
        broker.groups.restore(group, broker.topics[key.topic].partitions[key.partition], state)
