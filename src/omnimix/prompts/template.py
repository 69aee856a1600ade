"""Templates: a house style of conversations as data.

A template turns a sample into pieces: text (learned or not), items, and single tokens. Which characters
are learned is recorded here, while the text is built; nobody re-tokenizes to find out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeAlias

from pydantic import BeforeValidator

from omnimix.config import Spec, read_yaml, validate
from omnimix.errors import RecipeError, SampleError
from omnimix.registry import FAMILIES, did_you_mean
from omnimix.types import Media, Sample, Turn

FOLDER = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Text:
    """A stretch of characters.

    Attributes:
        learned: whether the model is trained to write it, and what that counts for in the loss.
        typed: whether it is a turn's content in which the name of a special token is text like any other.
    """

    text: str
    learned: float = False
    typed: bool = False


@dataclass(frozen=True, eq=False)
class Hole:
    """A place for an item; a key by itself, as `Media` is.

    Attributes:
        answer: whether it stands in an answer.
        scale: what its text counts for in the loss, where it becomes text of an answer.
    """

    media: Media
    answer: bool = False
    scale: float = 1.0


@dataclass(frozen=True)
class Token:
    """A single special token, named by its office."""

    name: Literal["bos", "eos"]
    learned: float = False


@dataclass(frozen=True)
class Break:
    """Text before and behind it is tokenized apart."""


Piece: TypeAlias = Text | Hole | Token | Break


class Form(Spec):
    """What stands before and after the content of a turn.

    Attributes:
        lead: stands between `before` and the content; an open answer ends before it, since the model
            writes it itself (a space before an answer).
        before, after: text in front of the content and behind it; nothing by default.
    """

    before: str = ""
    lead: str = ""
    after: str = ""


class Template(Spec):
    """A house style.

    Attributes:
        name: what refusals call it; `custom` where it is written in place.
        bos: whether a sequence begins with the tokenizer's begin token.
        eos: whether every answer ends in the tokenizer's end token (learned).
        eos_text: how that token is written where the prompt is looked at as text.
        system, user, assistant: forms of the turns; the assistant's `after` is learned.
        first_user: form of the first user turn where it differs.
        default_system: the system text where the sample brings none.
        drop_system: leave a system text out where the style has no system turn, instead of refusing it.
        stop_strings: strings that end an answer.
        tokenize: `pieces` tokenizes every stretch alone, `whole` the text between two items at once,
            `turns` the same of every question and every answer alone.
        training: how a finished conversation is tokenized: `same` as a prompt; `turns` every turn alone,
            what stands before the answer counted to the question; `stripped` the same without white
            space at the end of a question (arXiv:2402.07865: Phi's `turns`, Llama's `stripped`).
        contents: whether the name of a special token inside a turn's content is mere `text`, or `special`
            as the style's own words are. Most published training code does not tell the two apart, and weights
            that it made have learned so.
        strip: whether white space around the contents is removed.
        strip_prompt: whether white space at the end of a prompt is removed.
        blank: what stands for an empty answer.
        captions: the words of user turns are left out; the picture alone is the question.
        learn_past_end: whether an answer that contains the assistant's `after` itself is learned behind it;
            a model that stops there never writes what follows.
        unlearned: ids that are never learned, wherever they stand in an answer.
        empty_user: what is written for a user turn without content, in place of its form.
        media_separator: what stands behind each item in front of a question's words, in place of the white
            space there, so that a picture and a question are one prompt whoever puts them together; None leaves
            what the rows or the caller wrote.
    """

    name: str = "custom"
    bos: bool = True
    eos: bool = False
    eos_text: str = ""
    system: Form | None = None
    user: Form = Form()
    assistant: Form = Form()
    first_user: Form | None = None
    default_system: str | None = None
    drop_system: bool = False
    stop_strings: tuple[str, ...] = ()
    tokenize: Literal["pieces", "whole", "turns"] = "whole"
    training: Literal["same", "turns", "stripped"] = "same"
    contents: Literal["text", "special"] = "text"
    strip: bool = True
    strip_prompt: bool = False
    blank: str = ""
    captions: bool = False
    learn_past_end: bool = True
    unlearned: tuple[int, ...] = ()
    empty_user: str | None = None
    media_separator: str | None = None

    def pieces(
        self,
        sample: Sample,
        open_answer: bool = False,
        apart: Callable[[Media], bool] | None = None,
    ) -> list[Piece]:
        """The sample in this style.

        Args:
            sample: turns; an optional system turn first, then user and assistant alternating.
            open_answer: end in the assistant's `before`, ready for the model to write.
            apart: media that do not stand where they are in the text; the words around one are joined.

        Raises:
            SampleError: roles out of order, or a system turn where the style has none.
        """
        sides = self._sides(sample, open_answer, apart)
        if open_answer or self.training == "same":
            joint: list[Piece] = [Break()] if self.tokenize == "turns" else []
            whole = [p for i, side in enumerate(sides) for p in [*(joint if i else ()), *side]]
            return _stripped(whole) if open_answer and self.strip_prompt else whole
        found: list[Piece] = []
        for i, side in enumerate(sides):
            question = i % 2 == 0
            found += _stripped(side) if question and self.training == "stripped" else side
            found.append(Break())
        return found

    def text(self, sample: Sample, open_answer: bool = False) -> str:
        """The prompt as text, as a person (or a log) sees it; items and the begin token do not show.

        White space at its end is removed where the style does so for prompts.
        """
        text = "".join(self.wrapped(sample, open_answer))
        return text.rstrip() if self.strip_prompt else text

    def wrapped(self, sample: Sample, open_answer: bool = False) -> list[str]:
        """The text of every question and answer with what the style puts around it."""
        sides = self._sides(sample, open_answer)
        return ["".join(self._shown(piece) for piece in side) for side in sides]

    def preview(self, sample: Sample | None, message: str) -> str:
        """The prompt that asking `message` next would give, the message taken as it is.

        A begin token that the style writes out itself (Phi) is not shown for a first message.
        """
        turns = () if sample is None else sample.turns
        asked = Sample((*turns, Turn("user", (message,))), "preview")
        text = "".join(
            self._shown(piece) for side in self._sides(asked, True, raw=True) for piece in side
        )
        first = all(turn.role == "system" for turn in turns)
        text = text.removeprefix(self.eos_text) if first else text
        return text.rstrip() if self.strip_prompt else text

    def _shown(self, piece: Piece) -> str:
        if isinstance(piece, Text):
            return piece.text
        return self.eos_text if isinstance(piece, Token) and piece.name == "eos" else ""

    def _sides(
        self,
        sample: Sample,
        open_answer: bool,
        apart: Callable[[Media], bool] | None = None,
        raw: bool = False,
    ) -> list[list[Piece]]:
        """Questions and answers in turn; a question has the system text and `before` of its answer."""
        turns = list(sample.turns)
        if not turns:
            raise SampleError("the conversation is empty", where=sample.id)
        side: list[Piece] = [Token("bos")] if self.bos else []
        sides = [side]
        if turns[0].role == "system":
            side += self._system(turns.pop(0), sample.id)
        elif self.default_system is not None:
            side += self._system(Turn("system", (self.default_system,)), sample.id)
        for i, turn in enumerate(turns):
            expected = ("user", "assistant")[i % 2]
            if turn.role != expected:
                raise SampleError(
                    f"turn {i + 1} is from {turn.role!r} where {expected!r} was expected",
                    where=sample.id,
                    hint="user and assistant alternate, an optional system turn stands first",
                )
            if turn.role == "assistant":
                side.append(Text(self.assistant.before))
                sides.append([_scaled(p, turn.loss_scale) for p in self._answer(turn, apart)])
            else:
                if i:
                    sides.append([])
                side = sides[-1]
                form = self.first_user if i == 0 and self.first_user else self.user
                side += self._turn(turn, form, apart, raw and i == len(turns) - 1)
        if open_answer:
            if turns and turns[-1].role == "assistant":
                raise SampleError(
                    "the last turn is the assistant's already",
                    where=sample.id,
                    hint="end with a user turn to ask for an answer",
                )
            side.append(Text(self.assistant.before))
        return sides

    def _system(self, turn: Turn, where: str) -> Iterator[Piece]:
        if self.system is not None:
            yield from self._turn(turn, self.system)
        elif not self.drop_system:
            raise SampleError(
                f"the template {self.name!r} has no system turn",
                where=where,
                hint="leave the system text out or put it into the first question",
            )

    def _answer(self, turn: Turn, apart: Callable[[Media], bool] | None) -> Iterator[Piece]:
        form = self.assistant
        if form.lead:
            yield Text(form.lead, True)
        content = list(self._content(turn, apart, False))
        if self.blank and not any(isinstance(p, Hole) or p.text for p in content):
            content = [Text(self.blank, True)]
        if not self.learn_past_end:
            content = list(_learned_until(form.after, content))
        learned = not content or getattr(content[-1], "learned", True)
        yield from content
        yield Text(form.after, learned)
        if self.eos:
            yield Token("eos", learned)

    def _turn(
        self,
        turn: Turn,
        form: Form,
        apart: Callable[[Media], bool] | None = None,
        raw: bool = False,
    ) -> Iterator[Piece]:
        empty = not any(isinstance(part, Media) or part for part in turn.content)
        if turn.role == "user" and empty and self.empty_user is not None:
            yield Text(self.empty_user)
            return
        yield Text(form.before)
        if form.lead:
            yield Text(form.lead)
        for piece in self._content(turn, apart, raw):
            if isinstance(piece, Hole) or not (self.captions and turn.role == "user"):
                yield piece
        yield Text(form.after)

    def _content(
        self, turn: Turn, apart: Callable[[Media], bool] | None, raw: bool
    ) -> Iterator[Text | Hole]:
        answer = turn.role == "assistant"
        parts: list[str | Media] = []
        for part in turn.content:
            if isinstance(part, Media) and apart is not None and apart(part):
                yield Hole(part, answer)
            elif isinstance(part, str) and parts and isinstance(parts[-1], str):
                parts[-1] += part
            else:
                parts.append(part)
        if self.media_separator is not None and not answer:
            parts = _separated(parts, self.media_separator)
        last = len(parts) - 1
        for i, part in enumerate(parts):
            if isinstance(part, Media):
                yield Hole(part, answer)
                continue
            if self.strip and not raw:
                part = part.lstrip() if i == 0 else part
                part = part.rstrip() if i == last else part
            yield Text(part, answer, typed=self.contents == "text")


def _separated(parts: list[str | Media], separator: str) -> list[str | Media]:
    """The parts with one separator behind each item in front of the words; regions are of the words."""
    front: list[str | Media] = []
    for place, part in enumerate(parts):
        if isinstance(part, Media) and part.kind != "region":
            front += [part, separator]
        elif isinstance(part, Media) or part.strip():
            if front and isinstance(part, str):
                return [*front[:-1], separator + part.lstrip(), *parts[place + 1 :]]
            return [*front, *parts[place:]]
    return front[:-1]


def _scaled(piece: Piece, scale: float) -> Piece:
    """What a piece counts for in the loss, times a number."""
    if scale == 1 or isinstance(piece, Break):
        return piece
    if isinstance(piece, Hole):
        return Hole(piece.media, piece.answer, scale)
    return replace(piece, learned=piece.learned * scale)


def _learned_until(end: str, pieces: list[Text | Hole]) -> Iterator[Text | Hole]:
    """The pieces of an answer, of which nothing is learned behind the first `end`; that is learned."""
    ended = False
    for piece in pieces:
        if isinstance(piece, Hole) or not (ended or end in piece.text):
            yield piece
        elif ended:
            yield Text(piece.text)
        else:
            split = piece.text.index(end) + len(end)
            yield Text(piece.text[:split], True)
            yield Text(piece.text[split:])
            ended = True


def _stripped(pieces: list[Piece]) -> list[Piece]:
    """Without white space at the end of the text; items and tokens stop it."""
    found = list(pieces)
    while found and isinstance(found[-1], Text):
        last = found.pop()
        assert isinstance(last, Text)
        text = last.text.rstrip()
        if text:
            return [*found, Text(text, last.learned, last.typed)]
    return found


@cache
def named(name: str) -> Template:
    """A template that ships with omnimix.

    Raises:
        RecipeError: unknown name, with the nearest known one.
    """
    path = _files().get(name)
    if path is None:
        raise RecipeError(f"unknown template {name!r}", hint=did_you_mean(name, names()))
    return validate(Template, {"name": name, **read_yaml(path)}, str(path.name))


def _files() -> dict[str, Path]:
    """The general styles, and those that the families keep in their own folders."""
    paths = [*FAMILIES.glob("*/templates/*.yaml"), *FOLDER.glob("*.yaml")]
    return {path.stem: path for path in paths}


def names() -> list[str]:
    """Names of the templates that ship."""
    return sorted(_files())


def resolve(value: Any) -> Any:
    """A template by name, its words in place, or words over the one that they name as `base`."""
    over = isinstance(value, Mapping) and "base" in value
    name = value["base"] if over else value
    if not isinstance(name, str):
        return value
    try:
        found = named(name)
    except RecipeError as error:
        raise ValueError(f"{error.what}; {error.hint}") from None
    words = {key: word for key, word in value.items() if key != "base"} if over else {}
    return {**found.dump(), **words} if over else found


by_name = BeforeValidator(resolve, json_schema_input_type=str | Template)
