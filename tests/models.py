"""Models for tests: random weights, large enough that answers differ from item to item."""

from __future__ import annotations

import torch

from omnimix.compose.model import MultimodalLM
from omnimix.compose.recipe import Recipe


def random_model(recipe: Recipe, std: float = 0.3) -> MultimodalLM:
    """The same weights every time, drawn without touching other tests' chance."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MultimodalLM.from_recipe(recipe)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(std=std)
    return model.eval()
