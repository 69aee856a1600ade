"""A model's language model alone, in the forms of other engines, which then take prompts as embeddings."""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from omnimix import _transformers
from omnimix.disk import writing
from omnimix.errors import CheckpointError, OmnimixError
from omnimix.generate.assistant import Assistant
from omnimix.language import gguf

PROMPTS = (9, 4)
WRITTEN = 12


def write_folder(assistant: Assistant, out: Path) -> None:
    """A plain folder of the language model and its tokenizer, as transformers and vLLM open it, proven by greedy ids.

    Raises:
        OmnimixError: a head that transformers does not know; a folder that answers otherwise.
    """
    from transformers import AutoModelForCausalLM

    _check(assistant, out)
    language = assistant.model.language
    with writing(out), tempfile.TemporaryDirectory(dir=_near(out)) as near:
        draft = Path(near) / "model"
        with _transformers.quiet():
            language.save_pretrained(draft)
            assistant.processor.tokenizer.save_pretrained(draft)
            read = AutoModelForCausalLM.from_pretrained(draft, dtype=language.dtype).eval()
        _prove(assistant, read)
        draft.replace(out)


def write_gguf(assistant: Assistant, out: Path) -> None:
    """A GGUF file of the language model in float16, as llama.cpp opens it; prompts come as embeddings.

    It names no vocabulary: text is made tokens, and tokens text, by omnimix.

    Raises:
        OmnimixError: a missing package, or an architecture of another shape; a file that gives other logits.
    """
    if importlib.util.find_spec("gguf") is None:
        raise OmnimixError("the package gguf is missing", hint="pip install 'omnimix[gguf]'")
    _check(assistant, out)
    language = assistant.model.language
    config = language.config
    odd = gguf.odd(language)
    if odd is not None:
        raise OmnimixError(
            f"{config.model_type} cannot be written as GGUF: {odd}",
            where="language",
            hint="llama and mistral can; export --vllm takes any",
        )
    with writing(out), tempfile.TemporaryDirectory(dir=_near(out)) as near:
        draft = Path(near) / "model.gguf"
        gguf.write(language, draft)
        gguf.compare(language, draft)
        shutil.move(draft, out)


def _check(assistant: Assistant, out: Path) -> None:
    if out.exists():
        raise OmnimixError("it is there already", where=str(out), hint="name another place")
    if getattr(assistant.model, "is_quantized", False) or assistant.process_group.size > 1:
        raise OmnimixError("a model that is held in parts or fewer bits cannot be exported")
    if assistant.processor.recipe.language.head is not None:
        raise OmnimixError(
            "the output head has a bias or rows without logits, which other engines do not know",
            where="language.head",
        )


def _near(out: Path) -> Path:
    out.parent.mkdir(parents=True, exist_ok=True)
    return out.parent


def probes(language: Any) -> list[Tensor]:
    """Embeddings `[1, tokens, width]` as prompts bring them: of tokens, and between them of none."""
    chance = torch.Generator().manual_seed(0)
    table = language.get_input_embeddings()
    rows = table.weight.shape[0]
    found = []
    with torch.inference_mode():
        for count in PROMPTS:
            own = table(torch.randint(rows, (1, count), generator=chance))
            noise = torch.randn(own.shape, generator=chance) * table.weight.float().std()
            own[:, 1:3] = noise.to(own)[:, 1:3]
            found.append(own)
    return found


def greedy(language: Any, given: Tensor, count: int = WRITTEN) -> list[int]:
    """The likeliest tokens behind embeddings, by the model's own forward."""
    ids: list[int] = []
    with torch.inference_mode():
        for _ in range(count):
            ids.append(int(language(inputs_embeds=given, use_cache=False).logits[0, -1].argmax()))
            new = language.get_input_embeddings()(torch.tensor([ids[-1:]]))
            given = torch.cat([given, new], dim=1)
    return ids


def _prove(assistant: Assistant, read: Any) -> None:
    language = assistant.model.language.cpu()
    for given in probes(language):
        ours, theirs = greedy(language, given), greedy(read, given)
        if ours != theirs:
            raise CheckpointError(f"the folder answers {theirs} where the model answers {ours}")


FORMS: dict[str, Callable[[Assistant, Path], None]] = {"vllm": write_folder, "gguf": write_gguf}
