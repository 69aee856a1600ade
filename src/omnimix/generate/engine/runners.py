"""The language model's step: the one thing that an engine asks of whatever runs the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from omnimix.compose.model import MultimodalLM
from omnimix.encoders.base import device_dtype
from omnimix.language import forms, packed, ragged


@runtime_checkable
class Runner(Protocol):
    """Runs the language model over texts that go on, each behind what it has seen already.

    Attributes:
        token_bytes: memory that a token of a text takes.
        whole: a prompt has to come in one piece.
    """

    token_bytes: int
    whole: bool

    def open(self, room: int) -> Any:
        """A new text.

        Args:
            room: the most tokens that it comes to.
        """
        ...

    def run(
        self, texts: Sequence[Any], embeddings: Sequence[Float[Tensor, "n width"]]
    ) -> Float[Tensor, "texts v"]:
        """Let every text go on by its new tokens; the logits behind the last of each."""
        ...

    def cut(self, text: Any, start: int, end: int) -> list[Tensor] | None:
        """What is kept of some of a text's tokens; None where it cannot be taken apart."""
        ...

    def put(self, text: Any, pieces: Sequence[Tensor]) -> None:
        """Let a text begin with what was cut from another."""
        ...


class Together:
    """All texts in one pass of the torch module (`omnimix.language.ragged`)."""

    whole = False

    def __init__(self, model: MultimodalLM) -> None:
        self.language = model.language
        self.dtype = device_dtype(model.language)
        with torch.inference_mode():
            like = torch.zeros(1, 1, model.width, dtype=self.dtype, device=model.device)
            self.layout = ragged.layout(model.language, like)
        self.token_bytes = self.layout.token_bytes

    def open(self, room: int) -> ragged.TextCache:
        return ragged.TextCache(self.layout, room)

    def run(self, texts: Sequence[ragged.TextCache], embeddings: Sequence[Tensor]) -> Tensor:
        return ragged.run(self.language, texts, [one.to(self.dtype) for one in embeddings])

    def cut(self, text: ragged.TextCache, start: int, end: int) -> list[Tensor]:
        return text.cut(start, end)

    def put(self, text: ragged.TextCache, pieces: Sequence[Tensor]) -> None:
        text.put(pieces)


class _Alone:
    """A text with a cache of transformers, or, where the model is not right with one, with all its tokens."""

    def __init__(self, cache: Any) -> None:
        self.cache = cache
        self.length = 0
        self.seen: Tensor | None = None


class OneByOne:
    """One text after the other, for models that would confuse several: recurrent ones, caches of their own."""

    whole = True

    def __init__(self, model: MultimodalLM, cached: bool) -> None:
        self.language = model.language
        self.dtype = device_dtype(model.language)
        self.cached = cached
        text = model.language.config
        heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
        width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        # An estimate: layers that keep a state in place of keys take less.
        self.token_bytes = 2 * text.num_hidden_layers * heads * width * self.dtype.itemsize

    def open(self, room: int) -> _Alone:
        return _Alone(ragged.alone(self.language) if self.cached else None)

    def run(self, texts: Sequence[_Alone], embeddings: Sequence[Tensor]) -> Tensor:
        return torch.cat([self._run(*pair) for pair in zip(texts, embeddings, strict=True)])

    def _run(self, text: _Alone, new: Tensor) -> Tensor:
        new, start = new[None].to(self.dtype), text.length
        text.length += new.shape[1]
        if text.cache is None:
            new = new if text.seen is None else torch.cat([text.seen, new], dim=1)
            text.seen, start = new, 0
        return ragged.run_alone(self.language, text.cache, new, start)

    def cut(self, text: _Alone, start: int, end: int) -> None:
        return None

    def put(self, text: _Alone, pieces: Sequence[Tensor]) -> None:
        raise NotImplementedError


class Apart:
    """Texts one after the other and each prompt in one piece: to the last bit, a text's numbers are its own.

    Args:
        run: what runs each.
    """

    whole = True

    def __init__(self, run: Runner) -> None:
        self._run = run
        self.token_bytes = run.token_bytes

    def open(self, room: int) -> Any:
        return self._run.open(room)

    def run(self, texts: Sequence[Any], embeddings: Sequence[Tensor]) -> Tensor:
        pairs = zip(texts, embeddings, strict=True)
        return torch.cat([self._run.run([text], [new]) for text, new in pairs])

    def cut(self, text: Any, start: int, end: int) -> None:
        """Nothing: what a longer prompt read differs in its last bits."""
        return None

    def put(self, text: Any, pieces: Sequence[Tensor]) -> None:
        raise NotImplementedError


def runner(model: MultimodalLM) -> Runner:
    """What runs a model: all texts together, where a tiny copy of it gave each text's own logits so."""
    language = model.recipe.language
    attention = model.language.config._attn_implementation
    troubles = forms.troubles(language.hf_config(), language.attn_implementation)
    if attention == packed.NAME and "rows" not in troubles:
        return Together(model)
    return OneByOne(model, "cached" not in troubles)
