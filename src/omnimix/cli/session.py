"""A session: what one conversation at the terminal has said, shown and marked so far."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omnimix.cli.guard import save_drawing
from omnimix.errors import OmnimixError
from omnimix.types import Media, Region, Turn, check_region

if TYPE_CHECKING:
    from PIL import Image

    from omnimix.cli.remote import Remote
    from omnimix.generate.answers import Answer
    from omnimix.generate.assistant import Assistant

ANSWER_FILE = Path("answer.png")


class Session:
    """One conversation. Every item is opened once, when it is added.

    Args:
        assistant: who answers, here or at a server.
        options: of the answers.

    Attributes:
        history: finished turns.
        items, regions: go with the next question.
        marked: regions of the question before.
        answered: regions of its answer.
    """

    def __init__(self, assistant: Assistant | Remote, options: dict[str, Any]) -> None:
        self.assistant = assistant
        self.options = options
        self.forget()

    def ask(self, assistant: Assistant | Remote) -> None:
        """Go on with another model; what was opened for one is not what another opens, so it begins anew."""
        self.assistant = assistant
        self.forget()

    def forget(self) -> None:
        """Begin a new conversation."""
        self.history: list[Turn] = []
        self.items: list[Media] = []
        self.regions: list[Region] = []
        self.marked: list[Region] = []
        self.answered: list[Region] = []
        self._picture: tuple[Image.Image, str] | None = None
        self._given: dict[Media, Media] = {}

    @property
    def has_picture(self) -> bool:
        """Whether there is something to mark and to draw on."""
        return self._picture is not None

    @property
    def waiting(self) -> str:
        """What goes with the next question, in words; empty where nothing does."""
        counts = ((len(self.items), "item"), (len(self.regions), "mark"))
        return " and ".join(f"{n} {word}{'s' * (n > 1)}" for n, word in counts if n)

    def add(self, item: Media) -> None:
        """Open an item for the next question; regions lie on the last picture.

        Raises:
            OmnimixError: the model has no place for it, or it cannot be opened.
        """
        self.items.append(self._opened(item))

    def _opened(self, item: Media) -> Media:
        """The item as its model has it; what it was before is kept for `save`."""
        from omnimix.cli.remote import Remote
        from omnimix.media.image import ImageOpener
        from omnimix.media.opening import MediaOpener, Opened

        if isinstance(self.assistant, Remote):
            self.assistant.source = self.given
            if item.kind == "image":
                self._look(ImageOpener().open(item), item.label)
            return item
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
                self._look(thing, item.label)
            # From here on the conversation holds what was opened: weaving it, turn after turn, and drawing on
            # it read no file again.
            held = replace(item, data=Opened(thing))
            self._given[held] = item
            return held
        return item

    def _look(self, picture: Image.Image, label: str) -> None:
        self._picture = (picture, label)
        self.regions, self.marked = [], []

    def given(self, item: Media) -> Media:
        """An item as it was before it was opened."""
        return self._given.get(item, item)

    def undo(self) -> str:
        """Take back the last region, item or question; says which.

        What a question was about goes with the next one, until it is taken back too.

        Raises:
            OmnimixError: there is nothing.
        """
        if self.regions:
            self.regions.pop()
            return "the last region is taken back"
        if self.items:
            gone = self.items.pop()
            if gone.kind == "image":
                self._picture = None
                self._see_last()
            return "the last item is taken back"
        if not self.history:
            raise OmnimixError("there is nothing to take back")
        while (turn := self.history.pop()).role != "user" and self.history:
            pass
        asked = [part for part in turn.content if isinstance(part, Media)]
        self.items = [part for part in asked if part.kind != "region"]
        self._picture = None
        self._see_last()
        self.regions = [part.data for part in asked if part.kind == "region"]
        kept = f"; {self.waiting} for the next question" if self.waiting else ""
        return f"the last question and its answer are taken back{kept}"

    def _see_last(self) -> None:
        """The last picture of what is left becomes the one that is marked."""
        from omnimix.media.image import ImageOpener

        parts = [part for turn in self.history for part in turn.content]
        pictures = [p for p in (*parts, *self.items) if isinstance(p, Media) and p.kind == "image"]
        if pictures:
            self._look(ImageOpener().once(pictures[-1]), pictures[-1].label)
        self.answered = []

    def save(self, path: Path) -> None:
        """Write the conversation with its items as messages of OpenAI's API.

        Raises:
            OmnimixError: an item that messages have no word for, or the file cannot be written.
        """
        from omnimix.cli import messages
        from omnimix.disk import writing

        data = {"messages": messages.written(self.history, self.given)}
        with writing(path, "name a file in a folder that exists"):
            path.write_text(json.dumps(data, ensure_ascii=False, indent=1), encoding="utf-8")

    def open(self, path: Path) -> None:
        """Go on with a conversation that `save` wrote.

        Raises:
            OmnimixError: no such file, no conversation, or an item that the model has no place for.
        """
        from omnimix.cli import messages

        turns = messages.read(path)
        before = self.__dict__.copy()
        self.forget()
        try:
            for turn in turns:
                parts = [
                    self._opened(part)
                    if isinstance(part, Media) and part.kind != "region"
                    else part
                    for part in turn.content
                ]
                self.history.append(Turn(turn.role, tuple(parts)))
        except OmnimixError:
            self.__dict__.update(before)
            raise

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
