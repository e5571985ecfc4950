"""One line a variant. The order does not matter; names are unique within a family."""

from portask.registry import Entry

VARIANTS: tuple[Entry, ...] = ()
