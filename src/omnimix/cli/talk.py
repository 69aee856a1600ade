"""The interactive chat: a prompt, history, streaming, and a few commands."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from omnimix.cli.guard import numbers
from omnimix.cli.items import OTHER, WORDS, check_place, item
from omnimix.errors import OmnimixError
from omnimix.types import Box, Media, Point, Region, Turn

if TYPE_CHECKING:
    from omnimix.generate.assistant import Assistant

HELP = """\
/image PATH           add a picture to the next question
/audio PATH           add a sound; /video and /document likewise
/item NAME=PATH       add an item of any other modality
/box X1 Y1 X2 Y2      mark a box on the last picture, in pixels
/point X Y            mark a point
/region JSON          mark any region: {"polygon": [[x, y], ...]}, {"png": "mask.png"} ...
/draw PATH            save the last picture with its regions
                      items stand before your words, or where you write {image:2}, {audio:1}
/new                  forget the conversation
/quit                 leave (or Ctrl-D); Ctrl-C cancels an answer"""


class Talk:
    """One conversation at the terminal.

    Args:
        assistant: who answers.
        name: of the model, for the greeting.
        items, regions: go with the first question.
        options: of the answers.
        draw: a file to write after every answer that has boxes.
    """

    def __init__(
        self,
        assistant: Assistant,
        name: str,
        items: list[Media],
        regions: list[Region],
        options: dict[str, Any],
        draw: Path | None,
        console: Console | None = None,
    ) -> None:
        self.assistant = assistant
        self.name = name
        self.options = options
        self.draw_to = draw
        self.console = console or Console(highlight=False)
        self.history: list[Turn] = []
        self.items = list(items)
        self.regions = list(regions)
        self.picture = next((one for one in reversed(items) if one.kind == "image"), None)
        self.marked: list[Region] = []
        self.answered: list[Region] = []

    def run(self) -> None:
        """Until /quit or the end of the input."""
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  (arrow keys and earlier questions at the prompt)
        self.console.print(Text(f"{self.name}: ask away, /help for commands", style="dim"))
        while True:
            try:
                line = self.console.input("[bold cyan]> [/]").strip()
            except EOFError:
                return
            except KeyboardInterrupt:
                self.console.print()
                continue
            if line in ("/quit", "/exit"):
                return
            if line:
                self._line(line)

    def _line(self, line: str) -> None:
        try:
            if line.startswith("/"):
                self._command(*line[1:].partition(" ")[::2])
            else:
                self._ask(line)
        except OmnimixError as error:
            self.console.print(Text.assemble(("error: ", "bold red"), error.sentence()))

    def _command(self, word: str, rest: str) -> None:
        rest = rest.strip()
        if word == "help":
            self.console.print(HELP, markup=False)
        elif word == "new":
            self.history, self.items, self.regions = [], [], []
            self.picture, self.marked, self.answered = None, [], []
            self._note("a new conversation; give its picture with /image")
        elif word in (*WORDS, OTHER):
            self._item(word, rest)
        elif word == "box":
            self._mark(Box(*numbers(rest, 4, "/box")))
        elif word == "point":
            self._mark(Point(*numbers(rest, 2, "/point")))
        elif word == "region":
            from omnimix.cli.chat import regions_of

            for region in regions_of(rest):
                self._mark(region)
        elif word == "draw":
            self._draw(Path(rest or "answer.png"))
        else:
            raise OmnimixError(f"unknown command '/{word}'", hint="/help lists the commands")

    def _item(self, kind: str, path: str) -> None:
        one = item(kind, path)
        check_place(self.assistant, one)
        self.items.append(one)
        if kind == "image":
            self.picture = one
            self.regions, self.marked = [], []
        self._note(f"the {WORDS.get(kind, 'item')} goes with your next question")

    def _mark(self, region: Region) -> None:
        if self.picture is None:
            raise OmnimixError("a region needs a picture", hint="add one with /image PATH")
        from omnimix.cli.chat import check

        check(self.assistant, self.picture, [region])
        self.regions.append(region)
        self._note('marked; say "the box", "the point" or "here" in your next question')

    def _ask(self, text: str) -> None:
        from omnimix.generate.questions import question

        turn = question(text, (), self.regions, self.items)
        turns = [*self.history, turn]
        written = ""
        pieces = self.assistant.stream(turns, **self.options)
        try:
            for piece in pieces:
                written += piece
                self.console.print(Text(piece), end="")
        except KeyboardInterrupt:
            self.console.print(Text(" (cancelled; the question is forgotten)", style="dim"))
            return
        finally:
            pieces.close()
        self.console.print()
        self.history = [*turns, Turn("assistant", (written,))]
        found = pieces.answer
        self.answered = list(found.regions)
        self.marked = self.regions or self.marked
        self.items, self.regions = [], []
        from omnimix.cli.chat import described

        for region in self.answered:
            self._note(described(region))
        for one in found.skipped:
            self._note(f"left out {one.text}: {one.why}")
        if self.draw_to is not None and self.answered:
            self._draw(self.draw_to)

    def _draw(self, path: Path) -> None:
        from omnimix.cli.chat import save

        if self.picture is None:
            raise OmnimixError("there is no picture to draw on", hint="add one with /image PATH")
        save(self.assistant, path, self.picture, self.regions or self.marked, self.answered)
        self._note(f"drawn: {path}")

    def _note(self, text: str) -> None:
        self.console.print(Text(f"  {text}", style="dim"))
