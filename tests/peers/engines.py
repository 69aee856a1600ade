"""What the scripts over other engines share: a tiny model, its export, and the comparison."""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from omnimix.compose import recipe as recipes
from omnimix.compose.model import MultimodalLM
from omnimix.compose.processor import Processor
from omnimix.convert import exporting
from omnimix.generate.assistant import Assistant

MISSING = 3
"""Exit code where the engine is not installed."""
SHAPE = "language.config={model_type: llama, vocab_size: 1024, hidden_size: 256, intermediate_size: 512, \
num_hidden_layers: 4, num_attention_heads: 4, num_key_value_heads: 2, tie_word_embeddings: true, \
max_position_embeddings: 512, bos_token_id: 1, eos_token_id: 2, pad_token_id: 0, initializer_range: 0.1}"


def look(module: str, package: str) -> None:
    """End here where an engine is missing, naming what to install, or where no more is asked (`--only-look`)."""
    if importlib.util.find_spec(module) is None:
        print(f"{module} is missing: pip install {package}, in an environment of its own")
        raise SystemExit(MISSING)
    print(f"{module} is found")
    if "--only-look" in sys.argv:
        raise SystemExit(0)


def assistant() -> Assistant:
    """A tiny model of llama's shape behind nano's encoder, with random weights."""
    torch.manual_seed(0)
    recipe = recipes.load("nano", [SHAPE])
    return Assistant(MultimodalLM.from_recipe(recipe).eval(), Processor.from_recipe(recipe))


def compare(form: str, write: Callable[[Path, list[Tensor], int], list[list[int]]]) -> None:
    """Greedy ids of an engine beside torch's; ends with 1 where any differ.

    Args:
        form: of `omnimix export`.
        write: makes ids out of an export and prompts `[tokens, width]`, so many of each.
    """
    made = assistant()
    given = exporting.probes(made.model.language)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "export"
        exporting.FORMS[form](made, out)
        found = write(out, [one[0] for one in given], exporting.WRITTEN)
    told([exporting.greedy(made.model.language, one) for one in given], found)


def told(wanted: list[list[int]], found: list[list[int]]) -> None:
    """Says of each answer whether it is torch's; ends with 1 where any is not."""
    for ours, theirs in zip(wanted, found, strict=True):
        print("equal" if ours == theirs else f"torch {ours}, engine {theirs}")
    raise SystemExit(int(wanted != found))
