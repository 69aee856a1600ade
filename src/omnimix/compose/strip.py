"""A strip: the tokens of a sample while they are laid down one behind another."""

from __future__ import annotations

from itertools import accumulate

import numpy as np

from omnimix.compose.sequence import IGNORE
from omnimix.language.tokenizer import Tokenizer
from omnimix.prompts.template import Text


class Strip:
    """Ids, labels, owners and what labels count for side by side; only grows.

    Args:
        tokenizer: of the language model.
        unlearned: ids that are never learned.
        joined: tokenize neighbouring stretches of text together; else each alone.
    """

    def __init__(
        self, tokenizer: Tokenizer, unlearned: tuple[int, ...] = (), joined: bool = True
    ) -> None:
        self.ids: list[int] = []
        self.labels: list[int] = []
        self.owner: list[int] = []
        self.scale: list[float] = []
        self._tokenizer = tokenizer
        self._unlearned = unlearned
        self._joined = joined
        self._open: list[Text] = []  # stretches that the next ones may still join
        self._begun = False

    def text(self, stretch: Text) -> None:
        """Lay down text. It may join its neighbours up to the next hole, token or `close`."""
        self._open.append(stretch)
        if not self._joined:
            self.close()

    def token(self, id: int, learned: float) -> None:
        """Lay down a single token."""
        self.close()
        self._lay([id], [id if learned else IGNORE], 0, [learned])

    def hole(self, owner: int, tokens: int) -> None:
        """Leave places for an item that stands apart from the text.

        Text that is still open stays open: the words around such an item are one text.
        """
        # Any id would do, the item's features replace it; the pad id is in every table.
        self._lay([self._tokenizer.pad] * tokens, [IGNORE] * tokens, owner)

    def hole_in_text(self, owner: int, tokens: int) -> None:
        """Leave places for an item that stands inside the text; what follows goes on from it."""
        self.close()
        self.hole(owner, tokens)
        self._begun = True

    def close(self) -> None:
        """Tokenize the open stretches as one text; a token belongs to the stretch that it starts in."""
        # Merges cross the border between what the style writes and what is learned, so the stretches
        # cannot be tokenized apart; which token is learned is read off the characters instead.
        text = "".join(stretch.text for stretch in self._open)
        if text:
            ends = list(accumulate(len(stretch.text) for stretch in self._open))
            typed = [
                (end - len(stretch.text), end)
                for stretch, end in zip(self._open, ends, strict=True)
                if stretch.typed
            ]
            ids, starts = self._tokenizer.encode(text, self._begun, typed)
            self._begun = True
            # A token without characters of its own may be said to start behind the last one.
            inside = np.minimum(starts, len(text) - 1)
            learned = [self._open[i].learned for i in np.searchsorted(ends, inside, side="right")]
            labels = [
                id if mark and id not in self._unlearned else IGNORE
                for id, mark in zip(ids, learned, strict=True)
            ]
            self._lay(ids, labels, 0, learned)
        self._open = []

    def _lay(
        self, ids: list[int], labels: list[int], owner: int, scale: list[float] | None = None
    ) -> None:
        self.ids += ids
        self.labels += labels
        self.owner += [owner] * len(ids)
        self.scale += scale or [0.0] * len(ids)
