"""Templates: a house style of conversations as data.

A template turns a sample into pieces: text (learned or not), items, and single tokens. Which characters
are learned is recorded here, while the text is built; nobody re-tokenizes to find out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeAlias

from pydantic import BeforeValidator

from omnimix.config import Spec, read_yaml, validate
from omnimix.errors import RecipeError, SampleError
from omnimix.registry import did_you_mean
from omnimix.types import Media, Sample, Turn

FOLDER = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Text:
    """A stretch of characters; `learned` where the model is trained to write it."""

    text: str
    learned: bool = False


@dataclass(frozen=True, eq=False)
class Hole:
    """A place for an item."""

    media: Media
    answer: bool = False


@dataclass(frozen=True)
class Token:
    """A single special token, named by its office."""

    name: Literal["bos", "eos"]
    learned: bool = False


Piece: TypeAlias = Text | Hole | Token


class Form(Spec):
    """What stands before and after the content of a turn.

    Attributes:
        lead: stands between `before` and the content; an open answer ends before it, since the model
            writes it itself (the space that SPHINX has before an answer).
    """

    before: str = ""
    lead: str = ""
    after: str = ""


class Template(Spec):
    """A house style.

    Attributes:
        bos: whether a sequence begins with the tokenizer's begin token.
        eos: whether every answer ends in the tokenizer's end token (learned).
        system, user, assistant: forms of the turns; the assistant's `after` is learned.
        first_user: form of the first user turn where it differs.
        default_system: the system text where the sample brings none.
        stop: strings that end an answer.
        tokenize: `pieces` tokenizes every stretch alone, `whole` the text between two items at once.
        strip: whether white space around the contents is removed.
        learn_past_end: whether an answer that contains the assistant's `after` itself is learned behind it;
            a model that stops there never writes what follows.
        empty_user: what is written for a user turn without content, in place of its form.
    """

    name: str = "custom"
    bos: bool = True
    eos: bool = False
    system: Form | None = None
    user: Form = Form()
    assistant: Form = Form()
    first_user: Form | None = None
    default_system: str | None = None
    stop: tuple[str, ...] = ()
    tokenize: Literal["pieces", "whole"] = "whole"
    strip: bool = True
    learn_past_end: bool = True
    empty_user: str | None = None

    def pieces(self, sample: Sample, open_answer: bool = False) -> list[Piece]:
        """The sample in this style.

        Args:
            sample: turns; an optional system turn first, then user and assistant alternating.
            open_answer: end in the assistant's `before`, ready for the model to write.

        Raises:
            SampleError: roles out of order, or a system turn where the style has none.
        """
        return list(self._pieces(sample, open_answer))

    def _pieces(self, sample: Sample, open_answer: bool) -> Iterator[Piece]:
        turns = list(sample.turns)
        if not turns:
            raise SampleError("the conversation is empty", where=sample.id)
        if self.bos:
            yield Token("bos")
        if turns[0].role == "system":
            yield from self._system(turns.pop(0), sample.id)
        elif self.default_system is not None:
            yield from self._system(Turn("system", (self.default_system,)), sample.id)
        for i, turn in enumerate(turns):
            expected = ("user", "assistant")[i % 2]
            if turn.role != expected:
                raise SampleError(
                    f"turn {i + 1} is from {turn.role!r} where {expected!r} was expected",
                    where=sample.id,
                    hint="user and assistant alternate, an optional system turn stands first",
                )
            form = self.first_user if i == 0 and self.first_user else getattr(self, turn.role)
            yield from self._turn(turn, form)
        if open_answer:
            if turns and turns[-1].role == "assistant":
                raise SampleError(
                    "the last turn is the assistant's already",
                    where=sample.id,
                    hint="end with a user turn to ask for an answer",
                )
            yield Text(self.assistant.before)

    def _system(self, turn: Turn, where: str) -> Iterator[Piece]:
        if self.system is None:
            raise SampleError(
                f"the template {self.name!r} has no system turn",
                where=where,
                hint="leave the system text out or put it into the first question",
            )
        yield from self._turn(turn, self.system)

    def _turn(self, turn: Turn, form: Form) -> Iterator[Piece]:
        answer = turn.role == "assistant"
        empty = not any(isinstance(part, Media) or part for part in turn.content)
        if turn.role == "user" and empty and self.empty_user is not None:
            yield Text(self.empty_user)
            return
        yield Text(form.before)
        if form.lead:
            yield Text(form.lead, answer)
        last = len(turn.content) - 1
        learns = True
        for i, part in enumerate(turn.content):
            if isinstance(part, Media):
                yield Hole(part, answer)
                continue
            if self.strip:
                part = part.lstrip() if i == 0 else part
                part = part.rstrip() if i == last else part
            if answer and learns and not self.learn_past_end and form.after in part:
                end = part.index(form.after) + len(form.after)
                yield Text(part[:end], True)
                part, learns = part[end:], False
            yield Text(part, answer and learns)
        yield Text(form.after, answer and learns)
        if answer and self.eos:
            yield Token("eos", True)


@cache
def named(name: str) -> Template:
    """A template that ships with omnimix.

    Raises:
        RecipeError: unknown name, with the nearest known one.
    """
    path = FOLDER / f"{name}.yaml"
    if not path.is_file():
        raise RecipeError(f"unknown template {name!r}", hint=did_you_mean(name, names()))
    return validate(Template, {"name": name, **read_yaml(path)}, str(path.name))


def names() -> list[str]:
    """Names of the templates that ship."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def resolve(value: Any) -> Any:
    """A template by name, or its words in place."""
    if isinstance(value, str):
        try:
            return named(value)
        except RecipeError as error:
            raise ValueError(f"{error.what}; {error.hint}") from None
    return value


by_name = BeforeValidator(resolve)
