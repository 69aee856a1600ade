"""Prompts that are written out already, and probabilities of words, beside questions in turns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from omnimix.calls import checked_call
from omnimix.errors import SampleError
from omnimix.families.prismatic.prompting import PromptBuilder, plain, written
from omnimix.generate.assistant import Assistant
from omnimix.generate.decoding import Options, fingerprint
from omnimix.prompts.questions import Conversation


class Prompted:
    """Prompts as text, answered by an assistant.

    Args:
        assistant: what answers.
    """

    def __init__(self, assistant: Assistant) -> None:
        self.assistant = assistant
        self.processor = assistant.processor

    def prompt_builder(self, system: str | None = None) -> PromptBuilder:
        """For those who build prompts as text: turns in the model's own style."""
        return PromptBuilder(self.processor.recipe.template, system)

    @checked_call
    def generate(
        self,
        image: Any,
        prompt_text: str,
        do_sample: bool = False,
        temperature: float = 1.0,
        max_new_tokens: int = 64,
        min_length: int = 1,
        **options: Any,
    ) -> str:
        """Answer a prompt that is written out already (see `prompt_builder`).

        Args:
            image: a picture, or several where the recipe takes them; None for text alone.
            prompt_text: as the model shall read it; the begin token is added.
            temperature: used with `do_sample` alone.
            min_length: fewest tokens of prompt text and answer together.
            options: further words of `Options`.
        """
        answers = self.generate_batch(
            [image],
            [prompt_text],
            do_sample=do_sample,
            temperature=temperature,
            max_new_tokens=max_new_tokens,
            min_length=min_length,
            **options,
        )
        return str(answers[0])

    @checked_call
    def generate_batch(
        self,
        images: Sequence[Any],
        texts: Sequence[str],
        return_string_probabilities: Sequence[str] | None = None,
        do_sample: bool = False,
        temperature: float = 1.0,
        min_length: int = 1,
        **options: Any,
    ) -> list[Any]:
        """Answers to many written prompts, or for each the probabilities of some words.

        Args:
            images: one for each text; see `generate`.
            return_string_probabilities: words of one token each; for each text their probabilities as the
                first token of the answer, among these words alone, are returned in place of an answer.

        Returns:
            A list of texts, or of lists of probabilities.

        Raises:
            SampleError: not as many pictures as texts, or a word that is not one token.
        """
        if len(images) != len(texts):
            raise SampleError(
                f"{len(images)} pictures for {len(texts)} prompts",
                hint="give one for each, or None",
            )
        model = self.assistant
        bare = Prompted(Assistant(model.model, plain(self.processor), model.process_group))
        recipe = self.processor.recipe
        samples = [
            written(recipe, text, _many(image)) for image, text in zip(images, texts, strict=True)
        ]
        if return_string_probabilities is not None:
            return [bare.probabilities(s, return_string_probabilities) for s in samples]
        options["temperature"] = temperature if do_sample else 0.0
        answers = []
        for sample in samples:
            text_ids = self.processor.weave.tokenizer.encode(sample.turns[0].text())[0]
            least = max(0, min_length - len(text_ids) - recipe.template.bos)
            answers.append(
                bare.assistant.reply(sample, **{"min_new_tokens": least, **options}).text
            )
        return answers

    def probabilities(self, conversation: Conversation, words: Sequence[str]) -> list[float]:
        """How likely each word is as the first token of the answer, among these words alone.

        Args:
            words: each one token of the model (True, False, Yes, No, A ...).

        Raises:
            SampleError: a word that is not one token.
        """
        ids = [self.token_of(word) for word in words]
        process_group = self.assistant.process_group
        batch = self.assistant.batch(
            [self.assistant.weave(conversation, Options(max_new_tokens=1))]
        )
        process_group.same("input", fingerprint(batch) if process_group.size > 1 else "")
        with process_group.together(), torch.inference_mode():
            logits = self.assistant.model(**batch.inputs()).logits[0, -1].float()
        shares: list[float] = logits.softmax(-1)[ids].div(logits.softmax(-1)[ids].sum()).tolist()
        return shares

    def token_of(self, word: str) -> int:
        """The one token that a word is.

        Raises:
            SampleError: it is several.
        """
        ids = self.processor.weave.tokenizer.encode(word)[0]
        if len(ids) != 1:
            raise SampleError(
                f"{word!r} is {len(ids)} tokens of this model, not one",
                hint="probabilities are read at the first token; use a shorter word",
            )
        return ids[0]


def _many(image: Any) -> Sequence[Any]:
    if image is None:
        return ()
    return image if isinstance(image, list | tuple) else (image,)
