"""SPHINX-V as its users know it: `generate_response(qas, vps, image)`, points and boxes in pixels.

The rules stand in golden/specs/sphinx_v.md sections 1 and 3. Two of the original's doings are not copied: its call
writes into the caller's list, so that a second call with the same list saw other prompts, and it cuts more
prompts than it has places for without a word.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from torch import Tensor

from omnimix.errors import SampleError
from omnimix.families.sphinx.conversation import Mark, Qas, marked, several
from omnimix.families.sphinx.face import Face, Text
from omnimix.generate.decoding import Options
from omnimix.types import Media


class SPHINX_V_Model(Face):
    """A SPHINX-V behind the face of the reference's `SPHINX_V_Model`."""

    def generate_response(
        self,
        qas: Qas,
        vps: Sequence[Mark] | None = None,
        image: Any = None,
        max_gen_len: int = 512,
        temperature: float = 0.1,
        top_p: float = 0.5,
        seed: int = 0,
    ) -> str:
        """The answer to the last question about marks on a picture; nothing that is given is changed.

        Args:
            qas: questions with their answers, `[[question, answer], ..., [question, None]]`; the k-th mark
                is called `<Region k>` (boxes) or `<Mark k>` (points).
            vps: at most ten marks. Without any the model sees text only, as the original does.
            image: the picture they lie on.

        Raises:
            SampleError: no marks in the list, more than ten, or marks without a picture.
            RegionError: a mark outside its picture, or a box without extent.
        """
        media = marked(vps, image)
        return self._answer(self.prompt(qas), media, max_gen_len, temperature, top_p, seed)

    generate_reponse = generate_response

    def generate(
        self,
        prompts: Sequence[str],
        sparse_vps: Sequence[Sequence[Mark] | None] | None = None,
        images: Sequence[Any] | None = None,
        max_gen_len: int = 512,
        temperature: float = 0.0,
        top_p: float = 0.95,
        additional_stop_symbols: Iterable[str] = (),
    ) -> list[str]:
        """Answers to prompts that are written out already (see `prompt`), several at once.

        Args:
            sparse_vps: for each prompt its marks, in pixels as `generate_response` takes them.
            images: for each prompt the picture they lie on.
            additional_stop_symbols: texts that end an answer and are cut from it.
        """
        options = Options(max_gen_len, temperature, top_p)
        media = _shown(sparse_vps, images, prompts)
        return self._answers(prompts, media, options, additional_stop_symbols)

    def stream_generate(
        self,
        prompt: str,
        sparse_vp: Sequence[Mark] | None = None,
        image: Any = None,
        max_gen_len: int = 512,
        temperature: float = 0.0,
        top_p: float = 0.95,
        additional_stop_symbols: Iterable[str] = (),
    ) -> Iterator[dict[str, Any]]:
        """The whole text so far after each token, as `{"text": ..., "end_of_content": ...}`."""
        options = Options(max_gen_len, temperature, top_p)
        return self.streamed(prompt, marked(sparse_vp, image), options, additional_stop_symbols)

    def compute_logits(
        self,
        examples: Sequence[Text],
        sparse_vps: Sequence[Sequence[Mark] | None] | None = None,
        images: Sequence[Any] | None = None,
        bos: bool = True,
        eos: bool = False,
    ) -> list[Tensor]:
        """For each text a row of logits a token."""
        media = _shown(sparse_vps, images, examples)
        return [logits for _, logits in self._logits(examples, media, bos, eos)]

    def evaluate_examples(
        self,
        examples: Sequence[Text],
        contexts: Sequence[Text] | None = None,
        sparse_vps: Sequence[Sequence[Mark] | None] | None = None,
        images: Sequence[Any] | None = None,
        bos: bool = True,
        eos: bool = False,
    ) -> dict[str, list[Any]]:
        """How likely texts are, of each what stands behind its context; see `SPHINXModel`."""
        media = _shown(sparse_vps, images, examples)
        return self.scored(examples, contexts, media, bos, eos)


def _shown(
    sparse_vps: Sequence[Sequence[Mark] | None] | None,
    images: Sequence[Any] | None,
    texts: Sequence[Any],
) -> list[Sequence[Media]]:
    """What each prompt shows.

    Raises:
        SampleError: not one list of marks and one picture for each prompt.
    """
    nothing: list[Any] = [None] * len(several(texts))
    vps = nothing if sparse_vps is None else sparse_vps
    pictures = nothing if images is None else images
    if not len(vps) == len(pictures) == len(texts):
        raise SampleError(
            f"{len(vps)} lists of marks and {len(pictures)} pictures for {len(texts)} prompts",
            hint="give one of each for each prompt, or None",
        )
    return [marked(marks, image) for marks, image in zip(vps, pictures, strict=True)]
