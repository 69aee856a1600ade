"""The tokenizer as scripts call it: texts to padded tensors, ids to text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from torch import Tensor
from transformers import BatchEncoding

from omnimix.errors import CheckpointError
from omnimix.families.xgen_mm import recipe as xgen_recipe
from omnimix.language.slow_llama import SlowLlama


class XGenTokenizer:
    """Ids of the slow tokenizer, the three marks among them, whatever `use_fast` says.

    Attributes:
        padding_side: of a batch of texts; the original's is `left` as well.
        model_max_length: what texts are cut at where `truncation` is asked for.
    """

    def __init__(self, spec: SlowLlama, folder: Path, add_bos: bool) -> None:
        self.spec = spec
        self.padding_side: Literal["left", "right"] = "left"
        self.model_max_length = 4096
        self._inner = spec.load([folder])
        self._bos = add_bos
        self._numbers = {token.content: token.id for token in spec.added_tokens}
        self._ends: str = spec.eos_token

    @classmethod
    def beside(cls, folder: Path) -> XGenTokenizer:
        """That of a folder with `tokenizer.model` and its configuration."""
        spec, add_bos = xgen_recipe.tokenizer(folder)
        return cls(spec, folder, add_bos)

    def __len__(self) -> int:
        return self._inner.size

    @property
    def pad_token_id(self) -> int:
        return self._inner.pad

    @property
    def eos_token(self) -> str:
        """What ends a text; the cards set `<|end|>`."""
        return self._ends

    @eos_token.setter
    def eos_token(self, token: str) -> None:
        self._ends = token
        self._number(token)

    @property
    def eos_token_id(self) -> int:
        return self._number(self._ends)

    def convert_tokens_to_ids(self, tokens: str | Sequence[str]) -> Any:
        """Ids of added tokens by their text."""
        return self._number(tokens) if isinstance(tokens, str) else list(map(self._number, tokens))

    def _number(self, token: str) -> int:
        if token not in self._numbers:
            raise CheckpointError(
                f"the tokenizer has no added token {token!r}",
                hint=f"it has {', '.join(self._numbers)}",
            )
        return self._numbers[token]

    def __call__(
        self,
        text: str | Sequence[str],
        return_tensors: Literal["pt"] | None = None,
        padding: bool | str = False,
        truncation: bool = False,
        max_length: int | None = None,
    ) -> BatchEncoding:
        """`input_ids` and `attention_mask` of texts, as lists or as tensors.

        Raises:
            CheckpointError: texts of different length for a tensor, without padding.
        """
        rows = [self.encode(one) for one in ([text] if isinstance(text, str) else text)]
        if truncation:
            rows = [row[: max_length or self.model_max_length] for row in rows]
        width = max(map(len, rows))
        if return_tensors is not None and not padding and min(map(len, rows)) < width:
            raise CheckpointError(
                "texts of different length do not make one tensor", hint="give padding=True"
            )
        if not padding:
            width = 0
        blank = [[self.pad_token_id] * max(width - len(row), 0) for row in rows]
        left = self.padding_side == "left"
        ids = [[*gap, *row] if left else [*row, *gap] for row, gap in zip(rows, blank, strict=True)]
        seen = [
            [0] * len(gap) + [1] * len(row) if left else [1] * len(row) + [0] * len(gap)
            for row, gap in zip(rows, blank, strict=True)
        ]
        single = isinstance(text, str) and return_tensors is None
        words: dict[str, Any] = {"input_ids": ids, "attention_mask": seen}
        if single:
            words = {name: many[0] for name, many in words.items()}
        return BatchEncoding(words, tensor_type=return_tensors)

    def encode(self, text: str) -> list[int]:
        """Ids of one text."""
        ids, _ = self._inner.encode(text)
        start = [self._number(self.spec.bos_token)] if self._bos else []
        return [*start, *ids]

    def decode(self, token_ids: Tensor | Sequence[int], skip_special_tokens: bool = False) -> str:
        """The text of ids; role tokens stay in it, so callers cut it at `<|end|>`."""
        ids = [int(i) for i in token_ids]
        if skip_special_tokens:
            ids = [i for i in ids if i != self.eos_token_id]
        return self._inner.decode(ids, specials=not skip_special_tokens)

    def batch_decode(
        self, sequences: Tensor | Sequence[Any], skip_special_tokens: bool = False
    ) -> list[str]:
        """The texts of several rows of ids."""
        return [self.decode(row, skip_special_tokens) for row in sequences]
