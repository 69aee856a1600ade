"""What a processor does for transformers' users beside calling it: messages, regions of answers, counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence as Many
from typing import Any, Literal

from PIL import Image
from torch import Tensor
from transformers import ProcessorMixin

from omnimix import _transformers
from omnimix.compose import messages, pixels
from omnimix.compose.batch import Batch, collate
from omnimix.compose.pointing import readable, way
from omnimix.compose.recipe import Recipe
from omnimix.compose.sequence import IGNORE, Item, Sequence
from omnimix.compose.weave import Weaver
from omnimix.errors import ContextError, OmnimixError, RecipeError
from omnimix.prompts.coordinates import ParsedRegions
from omnimix.prompts.template import Template
from omnimix.types import Media


class Conversing(ProcessorMixin):  # type: ignore[misc]
    """The half of the processor that speaks of messages and texts, over a recipe and its weaver."""

    recipe: Recipe
    weave: Weaver

    def batch(
        self,
        sequences: Many[Sequence],
        side: Literal["left", "right"] = "right",
        pack: bool = False,
        multiple: int = 1,
    ) -> Batch:
        """Collate woven samples."""
        return collate(sequences, self.recipe, self.weave.tokenizer.pad, side, pack, multiple)

    def with_template(self, template: Template) -> Conversing:
        """The same with another style of prompts."""
        raise NotImplementedError

    def _written(self, office: Literal["bos", "eos"]) -> str:
        id = getattr(self.weave.tokenizer, office)
        return "" if id is None else self.weave.tokenizer.decode([id], specials=True)

    def _woven(self, asked: messages.AskedSample, begins: bool = True) -> Sequence:
        if not asked.verbatim:
            return self.weave(asked.sample, open_answer=asked.open, target=False)
        style = self.recipe.template
        plain = Template(name="as it is", bos=style.bos and begins, strip=False, contents="special")
        return self.with_template(plain).weave(asked.sample, open_answer=True)

    def _batch(
        self,
        woven: Many[Sequence],
        asked: Many[messages.AskedSample],
        padding: Any = False,
        padding_side: Literal["left", "right"] | None = None,
        pad_to_multiple_of: int | None = None,
        truncation: Any = False,
        max_length: int | None = None,
        return_tensors: Any = None,
        learned: bool = False,
        **others: Any,
    ) -> Batch:
        """Rows of texts or messages; learned tokens are told by `assistant_masks` alone.

        As in transformers these are lists, padded where asked, unless `return_tensors="pt"`.
        """
        given = {word: value for word, value in others.items() if value not in (None, False, {})}
        kind = str(getattr(return_tensors, "value", return_tensors))
        if padding == "max_length":
            given["padding='max_length'"] = True
        if given or kind not in ("pt", "None"):
            odd = next(iter(given), f"return_tensors={return_tensors!r}")
            raise OmnimixError(
                f"the processor knows no word {odd!r}",
                hint="a batch holds torch tensors; see its help",
            )
        for one in woven:
            if truncation and max_length is not None and len(one) > max_length:
                raise ContextError(
                    f"{len(one)} tokens are more than max_length {max_length}, and nothing is cut",
                    where=one.id,
                    hint="raise max_length or shorten the text",
                )
        side = padding_side or ("left" if any(one.open for one in asked) else "right")
        batch = self.batch(woven, side, multiple=pad_to_multiple_of or 1)
        if learned:
            batch["assistant_masks"] = (batch.labels != IGNORE).long()
        batch.pop("labels", None)
        pixels.rename(batch, self.recipe)
        if kind == "None":
            _as_lists(batch, bool(padding))
        return batch

    def apply_chat_template(
        self,
        conversation: Any,
        chat_template: str | None = None,
        *,
        tokenize: bool = False,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        return_assistant_tokens_mask: bool = False,
        return_dict: bool = False,
        return_tensors: Any = None,
        processor_kwargs: Mapping[str, Any] | None = None,
        **words: Any,
    ) -> Any:
        """Messages in transformers' form as a prompt's text, or woven with their items to a batch.

        A content is a text or parts: `{"type": "text", "text": ...}`, `{"type": "image", "path": ...}`. An item
        stands under its kind, `path`, `url` (of data or a local file: nothing is fetched) or `base64`; kinds are
        those of `Media`, or names of the recipe's modalities.

        Args:
            conversation: messages, or a list of those.
            chat_template: another one than the recipe's, for the text alone.
            return_assistant_tokens_mask: with `assistant_masks`, 1 at the tokens that are learned.

        Raises:
            OmnimixError: messages that cannot be read, or words that have no meaning here.
        """
        if not tokenize:
            if chat_template is None and self.chat_template is None:
                raise RecipeError(
                    f"the style {self.recipe.template.name!r} has no form as a chat template",
                    where="template",
                    hint="use tokenize=True, return_dict=True",
                )
            return super().apply_chat_template(
                conversation,
                chat_template=chat_template,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                processor_kwargs=dict(processor_kwargs or {}),
                **words,
            )
        if chat_template is not None or continue_final_message:
            word = "chat_template" if chat_template is not None else "continue_final_message"
            raise OmnimixError(
                f"{word} has no meaning where messages are woven",
                hint="write the text with tokenize=False and hand it over as text=, with its items",
            )
        rows, _ = self._normalize_conversations(conversation)
        asked = [
            messages.of_messages(row, f"messages[{i}]", add_generation_prompt)
            for i, row in enumerate(rows)
        ]
        # Pipelines and older callers write it among the words of the processor.
        words = {"return_tensors": return_tensors, **words, **(processor_kwargs or {})}
        woven = [self._woven(one) for one in asked]
        batch = self._batch(woven, asked, learned=return_assistant_tokens_mask, **words)
        return batch if return_dict else batch["input_ids"]

    def post_process_regions(
        self, generated_outputs: Any, target_sizes: Many[tuple[int, int]]
    ) -> list[ParsedRegions]:
        """The regions of answers, in pixels of the pictures they are about.

        Args:
            generated_outputs: the answers' texts or token ids, without their prompts.
            target_sizes: of each answer's (last) picture, height and width in pixels.

        Returns:
            For each answer its `regions`, and under `skipped` what looked like one.
        """
        tokenizer, codec = self.weave.tokenizer, self.recipe.coordinates
        if len(generated_outputs) != len(target_sizes):
            raise OmnimixError(
                f"{len(target_sizes)} sizes for {len(generated_outputs)} answers",
                hint="give height and width of one picture for each answer",
            )
        found = []
        for answer, (height, width) in zip(generated_outputs, target_sizes, strict=True):
            text = answer
            if not isinstance(answer, str):
                text = tokenizer.decode([int(i) for i in answer], specials=codec.tokens)
            view = self._blank(width, height).view()
            found.append(readable(self.recipe, text, view, (), way(self.recipe)))
        return found

    def _blank(self, width: int, height: int) -> Item:
        """An empty picture, prepared: its tokens, tiles and frame are those of any picture of its size."""
        name = self.recipe.modality_for("image")
        if name is None:
            raise RecipeError(
                f"the recipe {self.recipe.name!r} takes no pictures", where="modalities"
            )
        return self.weave.prepare(name, Media.image(Image.new("RGB", (width, height))))

    def _get_num_multimodal_tokens(
        self, image_sizes: Many[tuple[int, int]] | None = None, **_: Any
    ) -> Any:
        """Tokens and tiles of pictures of these heights and widths, as serving engines ask for them."""
        items = [self._blank(width, height) for height, width in image_sizes or ()]
        return _transformers.token_counts(
            [item.tokens for item in items], [item.tiles for item in items]
        )


def _as_lists(batch: Batch, padded: bool) -> None:
    """The rows of a batch as lists, without their padding where it is not asked for."""
    real = batch["attention_mask"].bool()
    for name, value in batch.items():
        if isinstance(value, Tensor) and value.shape == real.shape:
            rows = zip(value, real, strict=True)
            batch[name] = value.tolist() if padded else [row[own].tolist() for row, own in rows]
