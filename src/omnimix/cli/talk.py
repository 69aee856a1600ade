"""The interactive chat: a prompt, history, streaming, and a few commands."""

from __future__ import annotations

import contextlib
from pathlib import Path

from rich.console import Console
from rich.text import Text

from omnimix.cli.items import OTHER, WORDS, item
from omnimix.cli.regions import box, described, point, regions_of
from omnimix.cli.session import ANSWER_FILE, Session
from omnimix.errors import OmnimixError
from omnimix.types import Region

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
    """A session in which a person types.

    Args:
        session: with the items and regions of the first question.
        name: of the model, for the greeting.
        draw: a file to write after every answer that has boxes.
    """

    def __init__(
        self, session: Session, name: str, draw: Path | None, console: Console | None = None
    ) -> None:
        self.session = session
        self.name = name
        self.draw_to = draw
        self.console = console or Console(highlight=False)

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
            self.session.forget()
            self._note("a new conversation; give its picture with /image")
        elif word in WORDS:
            self._add(f"{word}={rest}", WORDS[word])
        elif word == OTHER:
            self._add(rest, "item")
        elif word == "box":
            self._mark(box(rest, "/box"))
        elif word == "point":
            self._mark(point(rest, "/point"))
        elif word == "region":
            for region in regions_of(rest):
                self._mark(region)
        elif word == "draw":
            self._draw(Path(rest or ANSWER_FILE))
        else:
            raise OmnimixError(f"unknown command '/{word}'", hint="/help lists the commands")

    def _add(self, text: str, what: str) -> None:
        self.session.add(item(text))
        self._note(f"the {what} goes with your next question")

    def _mark(self, region: Region) -> None:
        self.session.mark(region)
        self._note('marked; say "the box", "the point" or "here" in your next question')

    def _ask(self, text: str) -> None:
        turns = self.session.asking(text)
        shown = ""
        pieces = self.session.assistant.stream(turns, **self.session.options)
        try:
            for piece in pieces:
                shown += piece
                self.console.print(Text(piece), end="")
        except KeyboardInterrupt:
            self.console.print(Text(" (cancelled; the question is forgotten)", style="dim"))
            return
        finally:
            pieces.close()
        self.console.print()
        answer = pieces.answer
        self.session.answer(turns, answer, shown)
        for region in answer.regions:
            self._note(described(region))
        for one in answer.skipped:
            self._note(f"left out {one.text}: {one.why}")
        if self.draw_to is not None and answer.regions:
            self._draw(self.draw_to)

    def _draw(self, path: Path) -> None:
        self.session.draw(path)
        self._note(f"drawn: {path}")

    def _note(self, text: str) -> None:
        self.console.print(Text(f"  {text}", style="dim"))
