"""A session: what one conversation at the terminal has said, shown and marked so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omnimix.cli.guard import save_drawing
from omnimix.errors import OmnimixError
from omnimix.types import Media, Region, Turn, check_region

if TYPE_CHECKING:
    from PIL import Image

    from omnimix.generate.answers import Answer
    from omnimix.generate.assistant import Assistant

ANSWER_FILE = Path("answer.png")


class Session:
    """One conversation. Every item is opened once, when it is added.

    Args:
        assistant: who answers.
        options: of the answers.

    Attributes:
        history: finished turns.
        items, regions: go with the next question.
        marked: regions of the question before.
        answered: regions of its answer.
    """

    def __init__(self, assistant: Assistant, options: dict[str, Any]) -> None:
        self.assistant = assistant
        self.options = options
        self.forget()

    def forget(self) -> None:
        """Begin a new conversation."""
        self.history: list[Turn] = []
        self.items: list[Media] = []
        self.regions: list[Region] = []
        self.marked: list[Region] = []
        self.answered: list[Region] = []
        self._picture: tuple[Image.Image, str] | None = None

    @property
    def has_picture(self) -> bool:
        """Whether there is something to mark and to draw on."""
        return self._picture is not None

    def add(self, item: Media) -> None:
        """Open an item for the next question; regions lie on the last picture.

        Raises:
            OmnimixError: the model has no place for it, or it cannot be opened.
        """
        from omnimix.media.opening import MediaOpener, Opened

        recipe = self.assistant.processor.recipe
        name = recipe.modality_for(item.kind)
        if name is None:
            takes = [kind for spec in recipe.modalities.values() for kind in spec.opens.takes()]
            known = ", ".join(dict.fromkeys([*recipe.modalities, *takes]))
            raise OmnimixError(
                f"the model {recipe.name!r} has no place for an item of kind {item.kind!r}",
                hint=f"it takes {known or 'text only'}",
            )
        opens = recipe.modalities[name].opens
        if isinstance(opens, MediaOpener):
            with self.assistant.process_group.agreed():
                thing = opens.open(item)
            if item.kind == "image":
                self._picture = (thing, item.label)
                self.regions, self.marked = [], []
            # From here on the conversation holds what was opened: weaving it, turn after turn, and drawing on
            # it read no file again.
            item = replace(item, data=Opened(thing))
        self.items.append(item)

    def mark(self, region: Region) -> None:
        """Mark a region on the last picture, for the next question.

        Raises:
            OmnimixError: there is no picture, or the region does not lie on it.
        """
        if self._picture is None:
            raise OmnimixError("a region needs a picture", hint="add one with /image PATH")
        picture, label = self._picture
        check_region(region, *picture.size, where=label or "picture")
        self.regions.append(region)

    def asking(self, text: str) -> list[Turn]:
        """The conversation with a question at its end; nothing is remembered until it is `answer`ed."""
        from omnimix.prompts.questions import question

        return [*self.history, question(text, (), self.regions, self.items)]

    def answer(self, turns: Sequence[Turn], answer: Answer, text: str | None = None) -> None:
        """Remember a question and its answer.

        Args:
            turns: of `asking`.
            text: what of the answer was shown, where that is not the answer's own text.
        """
        written = answer.text if text is None else text
        self.history = [*turns, Turn("assistant", (written,))]
        self.marked = self.regions or self.marked
        self.answered = list(answer.regions)
        self.items, self.regions = [], []

    def draw(self, path: Path, answered: Sequence[Region] | None = None) -> None:
        """Write the last picture with its regions.

        Args:
            answered: regions of answers; those of the last one where left out.

        Raises:
            OmnimixError: there is no picture, or the file cannot be written.
        """
        from omnimix.generate.drawing import draw

        if self._picture is None:
            raise OmnimixError("there is no picture to draw on", hint="add one with /image PATH")
        shown = self.answered if answered is None else answered
        save_drawing(draw(self._picture[0], self.regions or self.marked, shown), path)
