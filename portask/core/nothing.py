"""What sessions share that have nothing open: an idle connection should cost no containers of its own."""

from __future__ import annotations

from typing import Any, NoReturn


class _Nothing(dict[Any, Any]):
    """An empty dictionary that stays so: whoever has something to keep replaces it."""

    __slots__ = ()

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise TypeError("NOTHING is shared by all sessions: replace it by a dictionary of its own")

    __setitem__ = setdefault = update = __ior__ = _refuse


NOTHING: dict[Any, Any] = _Nothing()
