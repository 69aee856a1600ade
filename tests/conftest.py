"""Shapes in signatures are checked; a tiny random model, built once a session, for every test that needs one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

# Workers of pytest-xdist share the cores; set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import jaxtyping

SOURCE = Path(__file__).parent.parent / "src" / "omnimix"
CHECKED = tuple(
    ".".join(("omnimix", *path.relative_to(SOURCE).with_suffix("").parts))
    for path in sorted(SOURCE.rglob("*.py"))
    if "from jaxtyping import" in path.read_text(encoding="utf-8")
    and path.stem not in ("types", "regions")
)
"""Modules with shapes in their signatures: in tests, a wrong shape is an error where it enters.

Left out are `types` and `regions`, whose tuples beartype checks at a random place, which hypothesis forbids in strategies.
"""

# Before anything of omnimix is imported. The "tower" lets an int stand for a float, as mypy does.
_CHECKER = "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
jaxtyping.install_import_hook(CHECKED, _CHECKER)

import pytest
from transformers.utils import logging

from omnimix.compose import recipe as recipes
from omnimix.compose.model import MultimodalLM
from omnimix.compose.processor import Processor
from omnimix.compose.recipe import Recipe
from tests.models import random_model
from tests.skips import pytest_addoption, pytest_configure  # noqa: F401 (hooks, found here by their names)

_ENCODER = "modalities.image.branches.0.encoders.0"
TINY = (
    "name=tiny",
    "language.config.hidden_size=32",
    "language.config.intermediate_size=64",
    "language.config.num_hidden_layers=1",
    "language.config.num_attention_heads=4",
    "language.config.num_key_value_heads=4",
    f"{_ENCODER}.args={{embed_dim: 32, depth: 1, num_heads: 4, class_token: false}}",
)
"""Overrides that make the recipe of nano tiny."""


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Not a file's bytes: some containers write something new every time, and workers must collect the same tests."""
    return argname if isinstance(val, bytes) and len(val) > 64 else None


@pytest.fixture(scope="session")
def tiny_recipe() -> Recipe:
    return recipes.load("nano", TINY)


_LENT: dict[MultimodalLM, list[object]] = {}
"""Models that many tests share, as they were made."""


def _looks(model: MultimodalLM) -> list[object]:
    weights = ((p.sum().item(), p.requires_grad, p.grad is None) for p in model.parameters())
    return [*weights, *(module.training for module in model.modules())]


@pytest.fixture(scope="session")
def tiny_model(tiny_recipe: Recipe) -> MultimodalLM:
    """Random weights, large enough that answers differ from picture to picture; who changes them takes a copy."""
    model = random_model(tiny_recipe)
    _LENT[model] = _looks(model)
    return model


@pytest.fixture(scope="module", autouse=True)
def _lent_models_come_back_as_they_were() -> Iterator[None]:
    """At the end of the file that changed one, for its other tests would see it in their turn."""
    yield
    for model, made in _LENT.items():
        assert _looks(model) == made, "a test of this file changed tiny_model: let it take a copy"


@pytest.fixture(scope="session")
def tiny_processor(tiny_recipe: Recipe) -> Processor:
    return Processor.from_recipe(tiny_recipe)


@pytest.fixture(scope="session")
def tiny_folder(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: MultimodalLM, tiny_processor: Processor
) -> Path:
    """The same as a model folder; tests do not write into it."""
    return saved(tiny_model, tiny_processor, tmp_path_factory.mktemp("models") / "tiny")


WIDE = (*TINY, "language.config.hidden_size=64")
"""A little less tiny: bitsandbytes scales 64 weights of a row together, and on some CPUs no fewer."""


@pytest.fixture(scope="session")
def wide_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder whose language model can be quantized; tests do not write into it."""
    recipe = recipes.load("nano", WIDE)
    folder = tmp_path_factory.mktemp("models") / "wide"
    return saved(random_model(recipe), Processor.from_recipe(recipe), folder)


def saved(model: MultimodalLM, processor: Processor, folder: Path) -> Path:
    logging.disable_progress_bar()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
