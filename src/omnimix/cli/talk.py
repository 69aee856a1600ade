"""The interactive chat: a prompt, history, streaming, and a few commands."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from omnimix.cli import inline
from omnimix.cli.items import OTHER, WORDS, item
from omnimix.cli.regions import box, described, point, regions_of
from omnimix.cli.session import ANSWER_FILE, Session
from omnimix.errors import OmnimixError
from omnimix.types import Region

if TYPE_CHECKING:
    from omnimix.cli.remote import Remote
    from omnimix.generate.assistant import Assistant

_SHORT = {"doc": "document"}
"""Commands by another name."""

HELP = """\
/image PATH           add a picture to the next question
/audio PATH           add a sound; /video and /doc likewise
/item NAME=PATH       add an item of any other modality
/box X1 Y1 X2 Y2      mark a box on the last picture, in pixels
/point X Y            mark a point
/region JSON          mark any region: {"polygon": [[x, y], ...]}, {"png": "mask.png"} ...
/undo                 take back the last region, item or question
/draw PATH            save the last picture with its regions
/save PATH            write the conversation with its items; /open PATH goes on with it
/model NAME           ask another model
                      items stand before your words, or where you write {image:2}, {audio:1}
/new                  forget the conversation
/quit                 leave (or Ctrl-D); Ctrl-C cancels an answer"""


class Talk:
    """A session in which a person types.

    Args:
        session: with the items and regions of the first question.
        name: of the model, for the greeting.
        draw: a file to write after every answer that has boxes.
        load: another model by its name.
    """

    def __init__(
        self,
        session: Session,
        name: str,
        draw: Path | None,
        console: Console | None = None,
        load: Callable[[str], Assistant | Remote] | None = None,
    ) -> None:
        self.session = session
        self.name = name
        self.draw_to = draw
        self.load = load
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
        word = _SHORT.get(word, word)
        if word in ("undo", "save", "open", "model"):
            self._keep(word, rest)
        elif word == "help":
            self.console.print(HELP, markup=False)
        elif word == "new":
            lost = self._lost()
            self.session.forget()
            self._note(f"a new conversation; give its picture with /image{lost}")
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

    def _keep(self, word: str, rest: str) -> None:
        if word == "undo":
            self._note(self.session.undo())
        elif not rest:
            raise OmnimixError(f"/{word} needs a {'name' if word == 'model' else 'file'}")
        elif word == "save":
            self.session.save(Path(rest))
            self._note(f"saved: {rest}")
        elif word == "open":
            lost = self._lost()
            self.session.open(Path(rest))
            self._note(f"{len(self.session.history)} messages; go on{lost}")
        elif self.load is None:
            raise OmnimixError("another model cannot be asked from here", hint="start it anew")
        else:
            other, lost = self.load(rest), self._lost()
            self.session.ask(other)
            self.name = rest
            self._note(f"{rest} answers; a new conversation{lost}")

    def _lost(self) -> str:
        """What a new conversation leaves behind of the next question."""
        return f"; left behind: {self.session.waiting}" if self.session.waiting else ""

    def _add(self, text: str, what: str) -> None:
        marks = len(self.session.regions)
        self.session.add(item(text))
        gone = marks > len(self.session.regions)
        lost = f"; the marks on the picture before ({marks}) are gone" if gone else ""
        self._note(f"the {what} goes with your next question{lost}")

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
        if answer.regions and self.session.has_picture:
            if self.draw_to is not None:
                self._draw(self.draw_to)
            self._show()

    def _show(self) -> None:
        """The picture with its regions in the terminal itself, where it can show one."""
        how = inline.way() if self.console.is_terminal else None
        if how is not None:
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "answer.png"
                self.session.draw(file)
                self.console.file.write(inline.shown(file, how))
                self.console.file.flush()

    def _draw(self, path: Path) -> None:
        self.session.draw(path)
        self._note(f"drawn: {path}")

    def _note(self, text: str) -> None:
        self.console.print(Text(f"  {text}", style="dim"))
