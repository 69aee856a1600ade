"""A model opened to answer: its number type and what runs its language model, chosen and said."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from omnimix.compose.fingerprint import of_weights
from omnimix.errors import OmnimixError
from omnimix.generate.assistant import Assistant, load
from omnimix.generate.decoding import Decoder
from omnimix.generate.engine.backends import NAMES, Backend, Weights, runner_of
from omnimix.generate.options import Options
from omnimix.prompts.questions import question
from omnimix.registry import did_you_mean

DTYPES = {one: getattr(torch, one) for one in ("float32", "bfloat16", "float16")}
READ, WRITTEN = 256, 64
"""Tokens of the question and of the answer by which number types are compared."""
PROMPTS = (
    "What is there to be seen?",
    "Count from one to ten.",
    "Which things are near each other, and why?",
    "Say in one sentence what a bridge is for.",
)
ANSWERED = 16
"""Tokens of each answer by which a back end is compared."""


def open_model(
    name: str,
    device: str | None = None,
    dtype: str | None = None,
    backend: Backend = "torch",
    weights: Weights = "16",
    say: Callable[[str], None] = lambda _: None,
    engine: Mapping[str, Any] | None = None,
    **words: Any,
) -> Assistant:
    """A model that answers as the words say.

    Args:
        dtype: a floating type of torch, or `auto` for the sooner one of float32 and bfloat16 on this machine.
        backend, weights: what runs the language model, and how it holds its matrices.
        say: is told what was chosen and measured.
        engine: words of vLLM.
        words: as `load` takes them.

    Raises:
        OmnimixError: words that do not fit each other or the model, a package that is missing.
    """
    make = runner_of(backend, weights, say, engine)
    if dtype not in (None, "auto", *DTYPES):
        raise OmnimixError(
            f"unknown dtype {dtype!r}", hint=did_you_mean(str(dtype), ("auto", *DTYPES))
        )
    if backend == "vllm" and (words.get("quantization") or words.get("parallel")):
        raise OmnimixError(
            "vLLM takes the language model whole",
            hint="leave --quantization and --parallel out; --backend-arg quantization=fp8 or "
            "tensor_parallel_size=2 does it there",
        )
    if backend not in ("torch", "vllm"):
        if dtype not in (None, "float32") or words.get("quantization") or words.get("parallel"):
            raise OmnimixError(
                f"{NAMES[backend]} takes the language model in float32, whole",
                hint="leave --dtype, --quantization and --parallel out; --weights holds it in fewer bits",
            )
        dtype = "float32"
    if dtype == "auto" and words.get("quantization"):
        raise OmnimixError("quantized weights have a type of their own", hint="leave --dtype out")
    assistant = load(name, device, dtype=DTYPES.get(dtype or ""), **words)
    group = assistant.process_group
    if group.rank:  # the first process speaks for all
        say = _silent
    if dtype == "auto":
        took = {
            one: seconds(assistant.model.language, DTYPES[one]) for one in ("float32", "bfloat16")
        }
        best = group.tell(min(took, key=lambda one: sum(took[one])))
        listed = "; ".join(f"{one} {a:.2g} s and {b:.2g} s" for one, (a, b) in took.items())
        say(f"number type {best} (products of {READ} tokens in and {WRITTEN} out: {listed})")
        assistant.to(dtype=DTYPES[best])
    assistant.decoder.make = make
    if backend != "torch":
        assistant.decoder.engine = _named(backend, weights, engine or {})
        assistant.decoder.given_up = of_weights(assistant.model) if backend == "vllm" else ""
        say(agreement(assistant))
    return assistant


def _named(backend: str, weights: str, engine: Mapping[str, Any]) -> str:
    """What runs the language model, as far as answers depend on it."""
    words = [f"{name}={value}" for name, value in sorted(engine.items()) if name != "url"]
    return " ".join([backend, weights, *words])


def _silent(_: str) -> None:
    """Say nothing."""


def seconds(language: nn.Module, dtype: torch.dtype) -> tuple[float, float]:
    """What the matrix products of a language model take in a type: for reading a question, for an answer.

    Each shape is tried once, on weights of its own, and counted as often as it comes.
    """
    found = Counter(
        (m.out_features, m.in_features) for m in language.modules() if isinstance(m, nn.Linear)
    )
    device = next(language.parameters()).device
    reading = writing = 0.0
    with torch.inference_mode():
        for (rows, columns), count in found.items():
            weight = torch.randn(rows, columns, device=device).to(dtype)
            reading += count * _product(weight, READ)
            writing += count * _product(weight, 1) * WRITTEN
    return reading, writing


def _product(weight: Tensor, tokens: int) -> float:
    """Seconds of a product, the least of some, so that what else runs here counts little."""
    given = torch.randn(tokens, weight.shape[1], device=weight.device).to(weight.dtype)
    took = []
    for _ in range(4):
        begin = time.perf_counter()
        nn.functional.linear(given, weight).flatten()[0].item()  # waits for a GPU
        took.append(time.perf_counter() - begin)
    return min(took[1:])


def agreement(assistant: Assistant, prompts: Sequence[str] = PROMPTS) -> str:
    """In words, how many tokens of short answers are those of torch up to the first that differs."""
    decoder, options = assistant.decoder, Options(max_new_tokens=ANSWERED)
    woven = [assistant.weave([question(one)], options) for one in prompts]
    endings = assistant.endings(options)
    plain = Decoder(assistant.model, assistant.process_group)  # first: vLLM takes torch's place
    theirs = [one.ids for one in plain.write(woven, options, endings)]
    ours = [one.ids for one in decoder.write(woven, options, endings)]
    same = sum(_common(a, b) for a, b in zip(ours, theirs, strict=True))
    whole = sum(a == b for a, b in zip(ours, theirs, strict=True))
    return (
        f"of {len(prompts)} short answers {whole} are torch's to the last token, and "
        f"{100 * same / sum(map(len, theirs)):.0f} % of the tokens stand before the first that differs"
    )


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    return next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )
