"""A subscription's credit, shared by the owners of what it reads.

The client grants credit to one subscription; several workers spend it, and together they must not spend more. So each
grant lies in a purse at the client's home, and parts of it with owners:

- What the client grants is split evenly at first; later it goes to those who ran out of theirs lately.
- An owner that has something to deliver and no credit gives back what it has (of messages, say, when bytes are missing)
  and **wants**. It gets a fair part of what is in the purse; if that is empty, all others are asked to give back what
  they do not use.

An owner may overdraw, as a batch is never cut; it gives back the debt. Two owners may overdraw at the same time, where
one broker would have stopped after the first batch.

Amounts are triples: messages, bytes, and records in flight, the last for members of groups whose ``max_in_flight`` is
limited: those are returned when they are acknowledged, not spent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

Amounts = tuple[int, int, int]
NOTHING: Amounts = (0, 0, 0)


class Purse:
    """Of one subscription.

    Args:
        places: Who shares it.
        limited: Whether records in flight are.
        grant: Gives an owner more.
        recall: Asks an owner to give back what it does not use.
    """

    __slots__ = (
        "_grant",
        "_grants",
        "_hot",
        "_kinds",
        "_lent",
        "_places",
        "_recall",
        "_recalled",
        "_wants",
        "pool",
    )

    def __init__(
        self,
        places: Sequence[int],
        limited: bool,
        grant: Callable[[int, Amounts], None],
        recall: Callable[[int], None],
    ) -> None:
        self.pool = [0, 0, 0]
        self._places = places
        self._kinds = 3 if limited else 2
        self._grant = grant
        self._recall = recall
        self._wants: dict[int, None] = {}
        self._lent: dict[int, None] = {}  # those that may have something unused
        self._grants: dict[int, int] = {}
        self._recalled: set[int] = set()
        self._hot: dict[int, None] = {}  # those that ran out lately

    def begin(self, messages: int, size: int, in_flight: int) -> None:
        """All places have the subscription, and nothing yet: hands out what the client granted with it."""
        amounts = (messages, size, in_flight)
        self.pool = list(amounts)
        # nobody gets a part that cannot be used; who asked already is first
        count = min(len(self._places), *(each for each in amounts[: self._kinds] if each > 0), 1 << 30)
        chosen = list({**self._wants, **dict.fromkeys(self._places)})[:count]
        for place in chosen:
            self._wants.pop(place, None)
        self._hand_out(chosen)
        self._serve()

    def add(self, messages: int, size: int) -> None:
        """The client grants more."""
        self.pool[0] += messages
        self.pool[1] += size
        self._serve()
        # never what came back: it would cross the next request, and again
        if not self._wants and max(self.pool) > 0:
            self._hand_out(list(self._hot) or list(self._places))

    def returned(self, place: int, amounts: Amounts, *, wants: bool, seen: int) -> None:
        """An owner gives back what it does not use; if it ``wants``, because it was not enough.

        ``seen`` is how many grants had reached it. One that crossed this on the way may be enough, and can be recalled.
        """
        for kind, amount in enumerate(amounts):
            self.pool[kind] += amount
        self._recalled.discard(place)
        if seen == self._grants.get(place, 0):
            self._lent.pop(place, None)
            if wants:
                self._wants[place] = None
            elif amounts[0] > 0:
                self._hot.pop(place, None)
        self._serve()

    def _serve(self) -> None:
        kinds = self._kinds
        while self._wants and min(self.pool[:kinds]) > 0:
            count = min(len(self._wants), *self.pool[:kinds])
            chosen = list(self._wants)[:count]
            for place in chosen:
                del self._wants[place]
                self._hot[place] = None
            self._hand_out(chosen)
        if self._wants:
            for place in list(self._lent):
                if place not in self._recalled:
                    self._recalled.add(place)
                    self._recall(place)

    def _hand_out(self, places: list[int]) -> None:
        """Gives all there is to these places. What is below zero stays: the next grant pays for it."""
        parts = _split((self.pool[0], self.pool[1], self.pool[2]), len(places))
        for kind, amount in enumerate(self.pool):
            self.pool[kind] = min(0, amount)
        for place, part in zip(places, parts, strict=True):
            if part != NOTHING:
                self._lent[place] = None
                self._grants[place] = self._grants.get(place, 0) + 1
                self._grant(place, part)


def _split(amounts: Amounts, count: int) -> list[Amounts]:
    """So many parts as even as can be; nothing of what is not above zero."""
    shares = [divmod(max(0, amount), count) for amount in amounts]
    return [
        tuple(even + (number < rest) for even, rest in shares)  # type: ignore[misc]  # three of them
        for number in range(count)
    ]
