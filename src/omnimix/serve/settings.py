"""How a server answers, whatever its clients ask."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from omnimix.generate.decoding import Options
from omnimix.segment.base import Segmenter
from omnimix.serve.items import ItemReader


@dataclass(frozen=True)
class Settings:
    """How a server answers, whatever its clients ask.

    Attributes:
        items: where items may come from.
        options: how answers are written where a request does not say, and the most tokens of any.
        max_bytes: most bytes of a request.
        max_items: most items of a request, all modalities and regions together.
        max_waiting: most requests that are answered or wait for it; more get 429.
        hosts: names under which clients may ask, besides plain addresses; None takes any. No page of the
            web can have a name without a dot, so that of starlette's test client is among them.
        max_characters: most of the texts of a request together.
        max_named_bytes: most bytes of the items that clients named (`uuid`) and may name again.
        deadline: seconds that a request may take.
        keys: of clients; without any, everybody is answered.
        rate: requests that one key, or one address where there are no keys, may send in a minute; None: any.
        origins: of web pages that may ask from a browser.
        page: a folder of built files that is shown at `/`.
        segmenter: makes masks of regions.
    """

    items: ItemReader = field(default_factory=ItemReader)
    options: Options = field(default_factory=lambda: Options(max_new_tokens=128))
    max_bytes: int = 64 * 1024 * 1024
    max_items: int = 64
    max_waiting: int = 32
    hosts: tuple[str, ...] | None = ("localhost", "testserver")
    max_characters: int = 1_000_000
    max_named_bytes: int = 256 * 1024 * 1024
    deadline: float = 600.0
    keys: tuple[str, ...] = ()
    rate: int | None = None
    origins: tuple[str, ...] = ()
    page: Path | None = Path(__file__).parent / "page"
    segmenter: Segmenter | None = None
