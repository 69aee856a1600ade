"""Every vision tower of transformers: counted right, each tile alone, its layers where they are, or refused."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoModel

from omnimix import _transformers
from omnimix.config import validate
from omnimix.encoders.transformers import OURS, TransformersVision, VisionTower
from omnimix.errors import RecipeError
from omnimix.hf_config import make
from omnimix.language.tiny import tiny_words

FILE = Path(__file__).parent / "towers.yaml"
EXPECTED: dict[str, dict[str, Any]] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
"""Towers that are refused, with a part of the sentence."""


LEFT_OUT = (
    "transformers_version", "architectures", "dtype", "_name_or_path",
    "out_features", "out_indices", "stage_names", "_out_features", "_out_indices",
)  # fmt: skip


def names() -> list[str]:
    """Types whose model is called with pictures, or with patches of them, and no text."""
    found = []
    for name in _transformers.model_types():
        try:
            cls = AutoModel._model_mapping[CONFIG_MAPPING[name]]
            words = list(inspect.signature(cls.forward).parameters)
        except (ImportError, AttributeError, ValueError, KeyError, TypeError):
            continue
        if (words[1] == "pixel_values" and "input_ids" not in words) or "grid_thw" in words:
            found.append(name)
    return sorted(set(found) - set(EXPECTED["untried"]))


def words_of(name: str) -> dict[str, Any]:
    config = CONFIG_MAPPING[name]()
    words = config.to_dict()
    if not {"depths", "hidden_sizes"} & set(words):  # stages have widths that belong together
        words = tiny_words(words)
    elif isinstance(words.get("depths"), list):
        words["depths"] = [1] * len(words["depths"])
    for word in LEFT_OUT:
        words.pop(word, None)
    patch = getattr(config, "patch_size", None)
    side = 4 * patch if isinstance(patch, int) and patch > 7 else 64
    size = getattr(config, "image_size", None)
    if isinstance(size, int):
        words["image_size"] = side
    return words | EXPECTED["words"].get(name, {})


def made(words: dict[str, Any], **more: Any) -> VisionTower:
    torch.manual_seed(0)
    tower = validate(TransformersVision, {"config": words, **more}, "tower").build()
    assert isinstance(tower, VisionTower)
    deep = not hasattr(make(words, also=OURS), "num_hidden_layers") or "depths" in words
    for name, parameter in () if deep else tower.named_parameters():
        scale = 0.0 if parameter.ndim > 1 or "bias" in name else 1.0
        torch.nn.init.normal_(parameter, std=0.2).data.add_(scale)
    return tower.eval()


def tiles_for(words: dict[str, Any]) -> Tensor:
    size = getattr(make(words, also=OURS), "image_size", 64)
    height, width = (size, size) if isinstance(size, int) else size
    torch.manual_seed(1)
    return torch.randn(2, 3, height, width)


@pytest.mark.parametrize("name", names())
def test_a_tower_gives_what_it_says_or_is_refused(name: str) -> None:
    reason = EXPECTED["refused"].get(name)
    try:
        words = words_of(name)
        tower = made(words)
    except RecipeError as error:
        assert reason is not None and reason in str(error), str(error)
        return
    except Exception as error:  # its own defaults cannot be made small
        assert reason == "unmade", repr(error)
        return
    assert reason is None, tower.features
    tiles = tiles_for(words)
    with torch.no_grad():
        together = tower(tiles)
        alone = torch.cat([tower(tile[None]) for tile in tiles])
    assert together.shape == (2, tower.features.tokens, tower.features.width)
    assert together.isfinite().all()
    torch.testing.assert_close(together, alone, atol=1e-4 * float(alone.abs().max()), rtol=0)
    if tower.features.grid is not None:
        rows, columns = tower.features.grid
        assert rows * columns + tower.features.prefix == tower.features.tokens


@pytest.mark.parametrize("name", EXPECTED["layered"])
def test_the_layers_of_a_tower(name: str) -> None:
    """Layer 0 holds the patches in reading order behind tokens that see no picture; -2 is that of the whole."""
    words = words_of(name)
    first = made(words, layer=0)
    tiles = tiles_for(words)
    other = tiles.clone()
    other[:, :, : tiles.shape[2] // 4, -tiles.shape[3] // 4 :] += (
        1  # the last patch of the first row
    )
    with torch.no_grad():
        changed = (first(tiles) - first(other)).abs().amax(dim=(0, 2)) > 1e-6
    assert first.features.grid == (4, 4)
    assert changed.nonzero().flatten().tolist() == [first.features.prefix + 3]
    cut = made(words, layer=-2)
    whole = AutoModel.from_config(make(words, also=OURS)).eval()
    whole = getattr(whole, "vision_model", whole)
    missing = whole.load_state_dict(cut.tower.state_dict(), strict=False).missing_keys
    assert missing
    with torch.no_grad():
        output = whole(**cut._words(tiles), output_hidden_states=True)
        torch.testing.assert_close(cut(tiles), output.hidden_states[-2].reshape(cut(tiles).shape))


@pytest.mark.parametrize(
    ("name", "prefix"),
    [("dinov2_with_registers", 5), ("aimv2_vision_model", 0), ("idefics3_vision", 0), ("pixtral", 0),
     ("clip_vision_model", 1), ("siglip_vision_model", 0), ("internvl_vision", 1)],
)  # fmt: skip
def test_tokens_before_the_patches(name: str, prefix: int) -> None:
    with torch.device("meta"):
        features = made(words_of(name)).features
    assert features.prefix == prefix and features.grid == (4, 4)


def test_patches_of_siglip2_are_those_of_its_processor() -> None:
    from transformers.models.siglip2.image_processing_pil_siglip2 import convert_image_to_patches

    words = words_of("siglip2_vision_model")
    tower = made(words)
    tiles = tiles_for(words)
    theirs = convert_image_to_patches(tiles[0].numpy(), 16)
    assert torch.equal(tower._words(tiles)["pixel_values"][0], torch.from_numpy(theirs))


def test_a_tower_that_cannot_be_run_is_refused_by_its_name() -> None:
    with pytest.raises(
        RecipeError, match=r"qwen2_5_vl_vision is called with hidden_states, grid_thw"
    ):
        TransformersVision(config={"model_type": "qwen2_5_vl_vision"}).build()
    with pytest.raises(RecipeError, match=r"does not say how large a tile is.*image_size"):
        TransformersVision(config={"model_type": "siglip2_vision_model"}).build()
