"""Tables that commands print or write."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table


def table(texts: Sequence[str], numbers: Sequence[str] = (), **words: Any) -> Table:
    """A table without rows for the terminal.

    Args:
        texts: titles of the first columns; the very first names the row.
        numbers: titles of those behind them.
        words: of rich, such as title and caption.
    """
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, title_justify="left", caption_justify="left", **words)
    for i, title in enumerate(texts):
        made.add_column(title, style="bold" if i == 0 else "")
    for title in numbers:
        made.add_column(title, justify="right", no_wrap=True)
    return made


def markdown(titles: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """The lines of a table in Markdown."""
    lines = [titles, ["---"] * len(titles), *rows]
    return [f"| {' | '.join(map(str, line))} |" for line in lines]
