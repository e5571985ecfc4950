"""The public API is what stands here: a change to it is a decision, not an accident."""

from importlib import import_module

import pytest

from portask import errors

PUBLIC = {
    "portask": {"Message", "__version__", "connect", "errors", "sync", "trace_headers"},
    "portask.client": {
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
    },
    "portask.sync": {"Client", "Pending", "Producer", "Subscription", "connect"},
    "portask_lab.conformance": {
        "Check",
        "NotApplicable",
        "Outcome",
        "Violation",
        "check",
        "checks",
        "conform",
        "require",
    },
}
SAME_IN_BOTH_CLIENTS = (
    "publish",
    "publish_nowait",
    "publish_many",
    "producer",
    "subscribe",
    "request",
    "respond",
    "fetch",
    "topics",
    "groups",
    "drop_group",
    "ping",
    "flush",
    "close",
)


@pytest.mark.parametrize("name", PUBLIC)
def test_exports(name: str) -> None:
    module = import_module(name)
    assert set(module.__all__) == PUBLIC[name]
    for attribute in PUBLIC[name]:
        assert hasattr(module, attribute)


def test_both_clients_have_the_same_names() -> None:
    aio, blocking = import_module("portask.client"), import_module("portask.sync")
    for name in SAME_IN_BOTH_CLIENTS:
        assert callable(getattr(aio.Client, name))
        assert callable(getattr(blocking.Client, name))


def test_every_error_has_a_code_of_its_own_and_comes_back_by_it() -> None:
    classes = [
        item
        for item in vars(errors).values()
        if isinstance(item, type) and issubclass(item, errors.PortaskError)
    ]
    assert len({item.code for item in classes}) == len(classes)
    for item in classes:
        assert type(errors.from_code(item.code, "text")) is item
        assert item.__name__ in (errors.__doc__ or ""), f"{item.__name__} is missing in the docstring's tree"
