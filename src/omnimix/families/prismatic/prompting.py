"""Prompts as text, for those who build them themselves: a builder, and conversations from ready prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from omnimix.calls import checked_call
from omnimix.compose.processor import Processor
from omnimix.compose.recipe import Recipe
from omnimix.prompts.questions import as_media, interleaved
from omnimix.prompts.template import Form, Template
from omnimix.types import Sample, Turn

MARK = "<image>"
_ROLES = {"human": "user", "gpt": "assistant"}


class PromptBuilder:
    """Collects turns and writes them in the model's own style.

    >>> from omnimix.prompts.template import named
    >>> builder = PromptBuilder(named("vicuna_v15"), system="Be brief.")
    >>> builder.add_turn("human", "What is this?")
    'Be brief. USER: What is this? ASSISTANT: '
    >>> builder.get_prompt()
    'Be brief. USER: What is this? ASSISTANT:'

    Args:
        template: the model's style.
        system: a system text in place of the style's own.
    """

    def __init__(self, template: Template, system: str | None = None) -> None:
        self.template = template
        self.turns: list[Turn] = [] if system is None else [Turn("system", (system,))]

    @checked_call
    def add_turn(self, role: str, message: str) -> str:
        """Add a turn; returns it with what the style puts around it.

        Args:
            role: `human` (or `user`) and `gpt` (or `assistant`) in turn.
            message: its text; a mark `<image>` has no place in it and is removed.

        Raises:
            SampleError: a role out of turn.
        """
        turn = Turn(_ROLES.get(role, role), (message.replace(MARK, ""),))
        asked = turn.role == "user"
        sample = Sample((*self.turns, turn), "prompt")
        wrapped = self.template.wrapped(sample, asked)[-1]
        self.turns.append(turn)
        return wrapped

    def get_prompt(self) -> str:
        """The conversation so far, ready for the model after a question."""
        sample = Sample(tuple(self.turns), "prompt")
        asked = bool(self.turns) and self.turns[-1].role == "user"
        return self.template.text(sample, asked)

    @checked_call
    def get_potential_prompt(self, message: str) -> str:
        """The prompt that asking `message` would give; it is not added."""
        so_far = Sample(tuple(self.turns), "prompt") if self.turns else None
        return self.template.preview(so_far, message)


def plain(processor: Processor) -> Processor:
    """A processor that takes a prompt as it stands; only begin token and items are added."""
    style = processor.recipe.template
    bare = Template(
        name=f"{style.name} as written",
        bos=style.bos,
        stop_strings=style.stop_strings,
        user=Form(),
        assistant=Form(),
        contents="special",  # the style has been written already
        strip=False,
    )
    return processor.with_template(bare)


def written(recipe: Recipe, prompt: str, images: Sequence[Any]) -> Sample:
    """A ready prompt and its pictures as a sample.

    Pictures stand at their marks `<image>` where the recipe has them inside the text; where they have a
    place of their own, marks are text.

    Raises:
        SampleError: marks and pictures differ in number.
    """
    pictures = [as_media(image) for image in images]
    name = recipe.modality_for("image")
    inside = name is not None and recipe.modalities[name].place == "inline"
    if not inside or (MARK not in prompt and len(pictures) <= 1):
        return Sample((Turn("user", (*pictures, prompt)),), "prompt")
    return Sample((interleaved(prompt, pictures, MARK),), "prompt")
