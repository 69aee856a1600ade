"""The step on texts: ids of an encoder's own tokenizer."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Gt
from jaxtyping import Int
from pydantic import model_validator
from torch import Tensor

from omnimix.errors import RecipeError
from omnimix.media import clip_bpe
from omnimix.media.files import found
from omnimix.media.tiles import RawStep

NOTHING = -1
"""Stands where there is no token; an encoder masks it."""


class Tokenize(RawStep):
    """A text as ids `[chunks, tokens]` with the special tokens that the tokenizer puts around it.

    The width is a multiple of `pad_to_multiple_of`, so that few shapes occur; what is left is `NOTHING`. A longer
    text is cut, or goes on in further chunks, each of which becomes a tile with tokens of its own.

    Attributes:
        path: `tokenizer.json`, BERT's `vocab.txt`, or CLIP's `bpe_simple_vocab_16e6.txt.gz`; beside the
            model.
        max_length: tokens of a chunk, special ones included.
        chunks: most chunks of a text; what lies behind is left away, as the published code does.
        stride: tokens that a chunk repeats of the one before.
        pad_to_multiple_of: of the width.
    """

    kind: Literal["tokenize"] = "tokenize"
    path: str
    max_length: Annotated[int, Gt(2)] = 512
    chunks: Annotated[int, Gt(0)] = 1
    stride: Annotated[int, Ge(0)] = 0
    pad_to_multiple_of: Annotated[int, Gt(0)] = 64

    @model_validator(mode="after")
    def _moves_on(self) -> Tokenize:
        if self.stride > self.max_length // 2:
            raise ValueError("chunks that overlap by more than half do not get on")
        return self

    def files(self) -> tuple[str, ...]:
        return (self.path,)

    def of(self, raw: Any) -> Int[Tensor, "chunks tokens"]:
        if not isinstance(raw, str):
            raise RecipeError(
                f"the step tokenize works on texts, got {type(raw).__name__.lower()}",
                hint="use it in a modality that opens documents",
            )
        whole = _loaded(found(self.path), self.max_length, self.stride).encode(raw)
        chunks = [chunk.ids for chunk in [whole, *whole.overflowing][: self.chunks]]
        longest = max(len(ids) for ids in chunks)
        width = min(
            -(-longest // self.pad_to_multiple_of) * self.pad_to_multiple_of,
            max(self.max_length, longest),
        )
        ids = torch.full((len(chunks), max(width, 1)), NOTHING)
        for row, chunk in enumerate(chunks):
            ids[row, : len(chunk)] = torch.tensor(chunk, dtype=torch.long)
        return ids


@lru_cache(maxsize=8)
def _loaded(path: Path, most: int, overlap: int) -> Any:
    """A tokenizer that cuts so; nothing is changed at it later, since threads share it.

    Raises:
        RecipeError: the file is no tokenizer.
    """
    from tokenizers import BertWordPieceTokenizer, Tokenizer

    try:
        if path.suffix == ".gz":
            loaded: Any = clip_bpe.load(path)
        elif path.suffix == ".txt":
            loaded = BertWordPieceTokenizer(str(path))
        else:
            loaded = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain exceptions
        raise RecipeError(
            f"this is no tokenizer ({str(error)[:120]})",
            where=str(path),
            hint="name a tokenizer.json or a vocab.txt",
        ) from None
    loaded.no_padding()
    loaded.enable_truncation(most, stride=overlap)
    return loaded
