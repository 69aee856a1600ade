"""Items that clients named, to say the name again instead of sending them again."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import replace

from omnimix.errors import SampleError
from omnimix.types import Media


class Forgotten(SampleError):
    """An item that is named, and not there (any more)."""


class Uuids:
    """The items that were used last, by the name that their client gave them, within a size.

    Args:
        most: bytes of all items together; those that were not used for the longest time go first.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._held: OrderedDict[tuple[str, str], Media] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def put(self, owner: str, uuid: str, media: Media) -> None:
        """Keep an item under its name; another of that name is forgotten."""
        with self._lock:
            self._drop((owner, uuid))
            self._held[owner, uuid] = media
            self._bytes += _size(media)
            while self._bytes > self.most:
                self._drop(next(iter(self._held)))

    def get(self, owner: str, uuid: str, where: str) -> Media:
        """The item of that name, as a new one.

        Raises:
            Forgotten: there is none, or none any more.
        """
        with self._lock:
            if (owner, uuid) not in self._held:
                raise Forgotten(
                    f"no item is called {uuid!r}, or it is forgotten by now",
                    where=where,
                    hint="send it again with its url",
                )
            self._held.move_to_end((owner, uuid))
            return replace(self._held[owner, uuid])

    def _drop(self, key: tuple[str, str]) -> None:
        media = self._held.pop(key, None)
        if media is not None:
            self._bytes -= _size(media)


def _size(media: Media) -> int:
    """Bytes that an item holds; a path holds next to nothing, any other thing is counted large."""
    data = media.data
    if isinstance(data, str | bytes):
        return len(data) + 1024
    return 1024 if not hasattr(data, "nbytes") else int(data.nbytes) + 1024
