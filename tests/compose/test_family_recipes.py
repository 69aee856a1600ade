"""The six family recipes: token arithmetic, tile counts and sizes, without a single weight."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from PIL import Image

from omnimix.compose import modality, recipe
from omnimix.compose.modality import Modality
from omnimix.compose.recipe import Recipe
from omnimix.media.tiles import Tiles


@dataclass(frozen=True)
class Family:
    """What a recipe must come to: tokens, tiles of a 640 x 480 picture, millions of parameters."""

    per_tile: int
    tiles: int
    encoders: tuple[tuple[float, ...], ...]
    connectors: tuple[float, ...]
    language: float


SPHINX_ENCODERS = ((1091.1,), (303.2, 843.4, 1136.5))
SPHINX_CONNECTORS = (3.9, 28.9)

FAMILIES = {
    "sphinx": Family(291, 1, SPHINX_ENCODERS, SPHINX_CONNECTORS, 13_015.9),
    "sphinx_1k": Family(291, 5, SPHINX_ENCODERS, SPHINX_CONNECTORS, 13_015.9),
    "sphinx_v": Family(291, 5, SPHINX_ENCODERS, SPHINX_CONNECTORS, 13_015.9),
    "multi_token": Family(576, 1, ((290.9,),), (21.0,), 7_241.7),
    "xgen_mm": Family(128, 5, ((413.0,),), (109.9,), 3_821.1),
    "prism_dinosiglip": Family(729, 1, ((291.1, 397.7),), (71.4,), 6_738.9),
}
PER_PICTURE = {
    "sphinx": 291,
    "sphinx_1k": 1455,
    "sphinx_v": 1455,
    "multi_token": 576,
    "xgen_mm": 5 * 128,
    "prism_dinosiglip": 729,
}


def built(found: Recipe) -> dict[str, Modality]:
    with torch.device("meta"):
        return modality.build(found.modalities, found.language.hf_config().hidden_size)


def tiles_of(found: Recipe, width: int, height: int) -> Tiles:
    tiles = Tiles.of(Image.new("RGB", (width, height)))
    for step in found.modalities["image"].steps:
        tiles = step(tiles)
    return tiles


def millions(module: torch.nn.Module) -> float:
    return sum(p.numel() for p in module.parameters()) / 1e6


@pytest.mark.parametrize("name", FAMILIES)
def test_tokens_and_sizes(name: str) -> None:
    found, wanted = recipe.load(name), FAMILIES[name]
    image = built(found)["image"]
    assert image.tokens_per_tile == wanted.per_tile
    assert all(p.is_meta for p in image.parameters())
    for branch, encoders, connector in zip(
        image.branches, wanted.encoders, wanted.connectors, strict=True
    ):
        assert [millions(e) for e in branch.encoders] == pytest.approx(encoders, abs=0.06)
        assert millions(branch.connector) == pytest.approx(connector, abs=0.06)
    with torch.device("meta"):
        assert millions(found.language.build()) == pytest.approx(wanted.language, abs=0.06)


@pytest.mark.parametrize("name", FAMILIES)
def test_tokens_of_a_picture(name: str) -> None:
    found = recipe.load(name)
    tiles = tiles_of(found, 640, 480).tensor()
    assert tiles.shape[0] == FAMILIES[name].tiles
    assert tiles.shape[0] * built(found)["image"].tokens_per_tile == PER_PICTURE[name]


@pytest.mark.parametrize("name", FAMILIES)
def test_the_steps_make_what_the_encoders_expect(name: str) -> None:
    """Encoders refuse another size, so running them on the meta device proves the steps."""
    found = recipe.load(name)
    image = built(found)["image"].eval()
    tiles = tiles_of(found, 640, 480).tensor().to("meta")
    for branch in image.branches:
        assert isinstance(branch, modality.Branch)
        for index, encoder in enumerate(branch.encoders):
            features = branch.encode(index, tiles, None)
            sizes = encoder.features
            assert features.shape == (tiles.shape[0], sizes.tokens, sizes.width)


@pytest.mark.parametrize(
    ("size", "tiles"), [((384, 768), 3), ((768, 384), 3), ((900, 900), 5), ((1500, 400), 4)]
)
def test_xgen_tiles_follow_the_aspect(size: tuple[int, int], tiles: int) -> None:
    made = tiles_of(recipe.load("xgen_mm"), *size)
    assert made.tensor().shape == (tiles, 3, 384, 384)


def test_sphinx_v_regions_take_ten_places_and_a_frame() -> None:
    modalities = built(recipe.load("sphinx_v"))
    assert list(modalities) == ["image", "region"]
    assert modalities["region"].tokens_per_tile == 12


def test_sphinx_v_sees_pictures_as_sphinx_1k_does() -> None:
    # A base has no base itself, so sphinx_v repeats the steps of sphinx_1k.
    one, other = recipe.load("sphinx_v"), recipe.load("sphinx_1k")
    assert one.modalities["image"] == other.modalities["image"]
    assert one.language == other.language


@pytest.mark.parametrize("name", FAMILIES)
def test_a_recipe_survives_writing_and_reading(name: str) -> None:
    found = recipe.load(name)
    assert recipe.parse(recipe.config.parse_yaml(recipe.dump(found), name), name) == found
    assert found.name == name
    assert found.about.endswith(".")


SENSES = {
    "multi_token_pool": {"image": 10},
    "multi_token_speech": {"speech": 10},
    "multi_token_sound": {"sound": 5},
    "multi_token_video": {"video": 10},
    "multi_token_imagebind": {"imagebind": 4},
    "multi_token_document": {"document": 4},
    "multi_token_any": {"image": 10, "document": 4, "speech": 10, "sound": 5, "video": 10},
}


@pytest.mark.parametrize("name", SENSES)
def test_tokens_of_multi_tokens_senses(name: str) -> None:
    found = recipe.load(name)
    assert {sense: m.tokens_per_tile for sense, m in built(found).items()} == SENSES[name]
    assert found.about.endswith(".")
    assert recipe.parse(recipe.config.parse_yaml(recipe.dump(found), name), name) == found


def test_every_sense_of_multi_token_any_is_that_of_its_own_recipe() -> None:
    whole = recipe.load("multi_token_any").modalities
    for name in ("pool", "document", "speech", "sound", "video"):
        own = recipe.load(f"multi_token_{name}").modalities
        assert own.items() <= whole.items()


def test_the_stages_of_multi_token_have_an_adapter() -> None:
    from pathlib import Path

    from omnimix.train.settings import load

    training, _ = load("multi_token.train.yaml")
    found, _ = training.model(Path())
    assert [(a.part, a.r, a.lora_alpha, a.lora_dropout) for a in found.adapters] == [
        ("language", 64, 16, 0.05)
    ]
    assert [stage.trainable for stage in training.stages] == [
        ("connectors",),
        ("connectors", "adapters"),
    ]
