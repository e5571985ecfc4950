"""The reference: what every strategy is compared with, and what a batch costs when nobody touches it."""

from __future__ import annotations

from portask.contracts import Packed
from portask.messages import Buffer


class Never:
    """Leaves every batch as it is.

    Right for links that are faster than a core compresses, and for payloads that come compressed.
    """

    coalesce = 0

    def pack(self, raw: Buffer, load: float) -> Packed | None:
        """``None``: as it is."""
        return None
