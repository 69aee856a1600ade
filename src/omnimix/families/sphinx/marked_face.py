"""SPHINX-V as its users know it: SPHINX's calls with marks (golden/specs/sphinx_v.md sections 1 and 3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from omnimix.families.sphinx.conversation import Marks, Qas, all_marked, marked
from omnimix.families.sphinx.face import SPHINXModel, Text


class SPHINX_V_Model(SPHINXModel):
    """A SPHINX-V behind the face of the reference's `SPHINX_V_Model`: each call takes marks and their picture.

    Marks are points `[x, y]` and boxes `[x, y, w, h]` in pixels of the picture, or regions, at most ten; the
    k-th is called `<Region k>` (boxes) or `<Mark k>` (points). Without any the model sees text alone, as the
    original does. What follows in a call is what `SPHINXModel` takes there.

    Two of the original's doings are not copied: its call writes into the caller's list, so that a second call
    with the same list saw other prompts, and it cuts more prompts than it has places for without a word.
    """

    takes_marks = True

    # Its signatures are the original's, where marks stand in front of the picture.

    def generate_response(  # type: ignore[override]
        self, qas: Qas, vps: Marks | None = None, image: Any = None, *args: Any, **words: Any
    ) -> str:
        """The answer to the last question about marks on a picture.

        Raises:
            SampleError: no marks in the list, more than ten, or marks without a picture.
            RegionError: a mark outside its picture, or a box without extent.
        """
        return super().generate_response(qas, marked(vps, image), *args, **words)

    def generate(  # type: ignore[override]
        self,
        prompts: Sequence[str],
        sparse_vps: Sequence[Marks | None] | None = None,
        images: Sequence[Any] | None = None,
        *args: Any,
        **words: Any,
    ) -> list[str]:
        """Answers to prompts that are written out already, each with its marks and their picture."""
        return super().generate(prompts, all_marked(sparse_vps, images, prompts), *args, **words)

    def stream_generate(  # type: ignore[override]
        self,
        prompt: str,
        sparse_vp: Marks | None = None,
        image: Any = None,
        *args: Any,
        **words: Any,
    ) -> Iterator[dict[str, Any]]:
        """The whole text so far after each token."""
        return super().stream_generate(prompt, marked(sparse_vp, image), *args, **words)

    def compute_logits(  # type: ignore[override]
        self,
        examples: Sequence[Text],
        sparse_vps: Sequence[Marks | None] | None = None,
        images: Sequence[Any] | None = None,
        *args: Any,
        **words: Any,
    ) -> list[Tensor]:
        """For each text a row of logits a token."""
        media = all_marked(sparse_vps, images, examples)
        return super().compute_logits(examples, media, *args, **words)

    def evaluate_examples(  # type: ignore[override]
        self,
        examples: Sequence[Text],
        contexts: Sequence[Text] | None = None,
        sparse_vps: Sequence[Marks | None] | None = None,
        images: Sequence[Any] | None = None,
        *args: Any,
        **words: Any,
    ) -> dict[str, list[Any]]:
        """How likely texts are, of each what stands behind its context."""
        media = all_marked(sparse_vps, images, examples)
        return super().evaluate_examples(examples, contexts, media, *args, **words)
