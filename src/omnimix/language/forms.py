"""In which forms several samples may stand together without a language model confusing them.

Found by trying, not by a list of names: a tiny copy of the model with random weights (`tiny`) is asked for
the logits of samples alone, with the attention that transformers writes out, and then padded on either side,
packed, and with rounds apart. Recurrent layers, attention that looks past the end, positions that nobody can
state and masks that a model ignores all show there, before the real model has given a number.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from omnimix import _transformers
from omnimix.errors import OmnimixError, RecipeError
from omnimix.hf_config import OF_FILES
from omnimix.language import packed, ragged, tiny

Form = Literal["alone", "right", "left", "packed", "apart", "rows", "cached"]

LENGTHS = (7, 11, 5)
SHARED = 3
"""Tokens that all of them begin with."""
TOLERANCE = 1e-4
"""Of the largest logit; confusions seen so far are a hundred times as large."""
LARGEST = 20_000_000
"""Parameters of a copy; what stays larger holds other towers, which are not made smaller."""

_SAID = {
    "alone": "the embeddings of items",
    "right": "samples padded on the right",
    "left": "samples padded on the left",
    "packed": "packed samples",
    "apart": "rounds apart",
    "rows": "running answers in one pass",
    "cached": "a cache",
}
_OTHER = "name another language model"
_WAYS = {
    "alone": _OTHER,
    "right": _OTHER,
    "left": "ask one question at a time",
    "packed": "set packing: false",
    "apart": "leave out apart, and set packing: false",
    "rows": "ask one question at a time",
    "cached": "read the whole text for every token",
}


def check(language: Any, form: Form, where: str = "language") -> None:
    """Refuse a form in which a sample's logits are not those it has alone.

    Args:
        language: the spec of the language model.
        form: how the samples stand together.
        where: what to name in the error.

    Raises:
        RecipeError: the model, the form, what happens there, and the way out.
    """
    config = language.hf_config()
    found = troubles(config, language.attn_implementation).get(form)
    if found is not None:
        raise RecipeError(
            f"{config.model_type} cannot take {_SAID[form]}: {found}", where=where, hint=_WAYS[form]
        )


def headed(config: Any, attention: str) -> bool:
    """Whether a model's head can run at chosen places alone, behind its body (`_transformers.headed`)."""
    return "headed" not in _all_troubles(config, attention)


def troubles(config: Any, attention: str) -> dict[Form, str]:
    """What goes wrong in which form; forms that are right are left out.

    Args:
        config: of transformers.
        attention: the recipe's word; what needs a GPU is tried by ours, which gets the same arguments.
    """
    found = _all_troubles(config, attention)
    return {form: found[form] for form in get_args(Form) if form in found}


def _all_troubles(config: Any, attention: str) -> dict[str, str]:
    # Copies of one kind are then equal, so that one is tried.
    words = {k: v for k, v in config.to_dict().items() if k not in OF_FILES}
    return _tried(json.dumps(tiny.tiny_words(words), default=str, sort_keys=True), attention)


@functools.lru_cache(maxsize=64)
def _tried(words: str, attention: str) -> dict[str, str]:
    with _aside(), torch.no_grad():
        try:
            plain, ours = _copies(json.loads(words), attention)
            drawn = [torch.randint(5, tiny.VOCABULARY - 5, (1, count)) for count in LENGTHS]
            ids = [torch.cat([drawn[0][:, :SHARED], each[:, SHARED:]], dim=1) for each in drawn]
            alone = [plain(input_ids=each).logits[0] for each in ids]
        except Exception as error:  # whatever a stranger's code raises is a reason
            cannot = f"its tiny copy, which would show it, cannot be made ({_line(error)})"
            return dict.fromkeys(("packed", "apart", "rows", "headed"), cannot)
        tries: dict[str, Callable[[], list[Tensor]]] = {
            "alone": lambda: [ours(inputs_embeds=_embedded(ours, each)).logits[0] for each in ids],
            "right": lambda: _padded(ours, ids, left=False),
            "left": lambda: _padded(ours, ids, left=True),
            "packed": lambda: _packed(ours, ids),
            "apart": lambda: _apart(ours, ids),
            "rows": lambda: _rows(ours, ids),
            "cached": lambda: [_cached(ours, each) for each in ids],
            "headed": lambda: _headed(ours, ids),
        }
        found = {form: _trouble(alone, run) for form, run in tries.items()}
    return {form: trouble for form, trouble in found.items() if trouble is not None}


@contextmanager
def _aside() -> Iterator[None]:
    """On the CPU, in float32, drawing from nobody's chance, whatever is being built around it."""
    dtype = torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]), torch.device("cpu"), _transformers.quiet():
        torch.set_default_dtype(torch.float32)
        torch.manual_seed(0)
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)


def _copies(words: dict[str, Any], attention: str) -> tuple[Any, Any]:
    """Two tiny models of the same weights: one with the attention written out, one as recipes build it."""
    from transformers import AutoConfig

    def small() -> (
        Any
    ):  # a model writes its attention's name into its configuration, so each has its own
        return AutoConfig.for_model(**words)

    with torch.device("meta"):
        size = sum(p.numel() for p in _transformers.causal_lm(small(), "eager").parameters())
    if size > LARGEST:
        raise RecipeError(f"it has {size} parameters", where="language.config")
    if attention not in ("sdpa", "eager"):
        attention = "sdpa"
    plain = _transformers.causal_lm(small(), "eager").eval()
    ours = built(small(), attention).eval()
    for name, parameter in plain.named_parameters():
        parameter.normal_(std=0.2).add_(0.0 if parameter.ndim > 1 or "bias" in name else 1.0)
    ours.load_state_dict(plain.state_dict())
    return plain, ours


def built(config: Any, attention: str) -> Any:
    """A model with fresh weights, on the current default device.

    `sdpa` is our attention wherever the model hands its attention what flash attention needs (windows, soft
    caps, sinks, borders of samples). Elsewhere it is that of transformers, or the one that the model writes out.
    """
    if attention != "sdpa":
        return _transformers.causal_lm(config, attention)
    packed.register()
    flash, plain = _transformers.attentions(config)
    return _transformers.causal_lm(config, packed.NAME if flash else "sdpa" if plain else "eager")


def _trouble(alone: list[Tensor], run: Callable[[], list[Tensor]]) -> str | None:
    try:
        found = run()
    except Exception as error:  # as above
        return f"its code fails there ({_line(error)})"
    scale = max(float(each.abs().max()) for each in alone)
    if any(a.shape != b.shape for a, b in zip(alone, found, strict=True)):
        return "it gives other tokens than it was asked for"
    gaps = [(a - b).abs() for a, b in zip(alone, found, strict=True)]
    apart = max(float(gap[~gap.isinf()].max()) for gap in gaps)
    if apart <= TOLERANCE * scale:
        return None
    return f"a sample's logits would not be those it has alone (in a tiny copy {apart:.2g} away, of {scale:.2g})"


def _line(error: Exception) -> str:
    if isinstance(error, OmnimixError):
        return error.what
    lines = str(error).strip().splitlines()
    return lines[0][:160] if lines else type(error).__name__


def _embedded(model: Any, ids: Tensor) -> Tensor:
    found: Tensor = model.get_input_embeddings()(ids)
    return found


def _padded(model: Any, ids: list[Tensor], left: bool) -> list[Tensor]:
    """As batches give them: unmasked where the padding is on the right, with positions where on the left."""
    width = max(LENGTHS)
    rows = torch.cat([nn.functional.pad(each, _sides(width - each.shape[1], left)) for each in ids])
    mask = torch.stack([
        nn.functional.pad(torch.ones(count, dtype=torch.long), _sides(width - count, left))
        for count in LENGTHS
    ])  # fmt: skip
    words = padded_words(model, mask, width) if left else {}
    logits = model(inputs_embeds=_embedded(model, rows), **words).logits
    return [row[keep.bool()] for row, keep in zip(logits, mask, strict=True)]


def _headed(model: Any, ids: list[Tensor]) -> list[Tensor]:
    """Body and head apart, as the loss asks for them: padded on the right, the tokens of all in one row."""
    if model.base_model is model:
        raise RecipeError("it has no body apart from its head")
    width = max(LENGTHS)
    rows = torch.cat([nn.functional.pad(each, (0, width - each.shape[1])) for each in ids])
    hidden = model.base_model(inputs_embeds=_embedded(model, rows), return_dict=True)[0]
    chosen = torch.cat([row[:count] for row, count in zip(hidden, LENGTHS, strict=True)])
    return list(_transformers.headed(model, chosen[None])[0].split(LENGTHS))


def _sides(count: int, left: bool) -> tuple[int, int]:
    return (count, 0) if left else (0, count)


def padded_words(model: Any, mask: Tensor, tokens: int) -> dict[str, Tensor]:
    """The mask of padded samples, and for the last tokens positions that count from each one's first."""
    words = {"attention_mask": mask}
    if _transformers.takes(model, "position_ids"):
        words["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)[:, -tokens:]
    return words


def _packed(model: Any, ids: list[Tensor]) -> list[Tensor]:
    row = torch.cat(ids, dim=1)
    places = torch.cat([torch.arange(count) for count in LENGTHS])
    words = packed_words(places[None], torch.tensor([0, *LENGTHS]).cumsum(0).int())
    with packed.by_segment():
        logits = model(inputs_embeds=_embedded(model, row), **words).logits[0]
    return list(logits.split(LENGTHS))


def packed_words(positions: Tensor, borders: Tensor) -> dict[str, Any]:
    """What a language model is told of a packed row, as transformers names it for flash attention."""
    longest = int(borders.diff().max())
    return {
        "position_ids": positions,
        "cu_seq_lens_q": borders,
        "cu_seq_lens_k": borders,
        "max_length_q": longest,
        "max_length_k": longest,
        "use_cache": False,
    }


def _apart(model: Any, ids: list[Tensor]) -> list[Tensor]:
    """The samples as rounds of one conversation, behind the tokens that they all begin with."""
    first = ids[0][:, :SHARED]
    row = torch.cat([first, *(each[:, SHARED:] for each in ids)], dim=1)
    counts = [SHARED, *(count - SHARED for count in LENGTHS)]
    starts = [0] + [SHARED] * len(LENGTHS)
    places = torch.cat([start + torch.arange(n) for start, n in zip(starts, counts, strict=True)])
    branches = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    borders = torch.tensor([0, len(places)], dtype=torch.int32)
    seen = packed.distances(branches, places, borders)
    with packed.by_segment():
        words = packed_words(places[None], borders)
        logits = model(inputs_embeds=_embedded(model, row), seen=seen, **words).logits[0]
    shared, *own = logits.split(counts)
    return [torch.cat([shared, each]) for each in own]


def _rows(model: Any, ids: list[Tensor]) -> list[Tensor]:
    """As answers run together: joining one after another, by one to three tokens; infinite where none are given."""
    texts = [_embedded(model, each)[0] for each in ids]
    layout = ragged.layout(model, texts[0][None, :1])
    rows = [ragged.TextCache(layout, len(each)) for each in texts]
    found: list[list[Tensor]] = [[] for _ in ids]
    for step in range(sum(LENGTHS)):
        here = [i for i, row in enumerate(rows) if i <= step and row.length < row.room]
        pieces = [texts[i][rows[i].length :][: 1 + (step + i) % 3] for i in here]
        if not here:
            continue
        logits = ragged.run(model, [rows[i] for i in here], pieces)
        for i, piece, one in zip(here, pieces, logits, strict=True):
            found[i] += [one.new_full(one.shape, torch.inf)] * (len(piece) - 1) + [one]
    return [torch.stack(own) for own in found]


def _cached(model: Any, ids: Tensor) -> Tensor:
    """As one answer runs alone: the prompt at once, then token after token; infinite where none are given."""
    text, cache = _embedded(model, ids), ragged.alone(model)
    first = ragged.run_alone(model, cache, text[:, :-2], 0)
    steps = [
        ragged.run_alone(model, cache, text[:, i : i + 1], i)
        for i in range(ids.shape[1] - 2, ids.shape[1])
    ]
    return torch.cat([first.new_full((ids.shape[1] - 3, first.shape[1]), torch.inf), first, *steps])
