"""Preprocessing against the reference's own numbers: equal bytes, equal floats."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from omnimix.media.image import ImageOpener
from omnimix.media.steps import CentreCrop, Letterbox, Pad, Resize, ResizeCrop
from omnimix.media.tensor_steps import Normalize, Quadrants, TensorResize
from omnimix.media.tiles import Tiles
from omnimix.media.tiling import AnyRes
from omnimix.types import Media
from tests.cases import golden

CLIP = Normalize(mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711))
HALF = Normalize(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
SPHINX_PAD = Pad(fill=(122, 116, 104))


def opened(path: Path) -> Tiles:
    return Tiles.of(ImageOpener().open(Media.image(str(path))))


def prismatic_step(strategy: str, steps: list[dict[str, Any]]) -> Any:
    """Our step for the reference's list of operations."""
    by_name = {step["op"]: step for step in steps}
    target = by_name["resize"]["size"]
    crop = by_name["center_crop"]["size"][0]
    if strategy == "resize-naive":
        return Resize(size=(target[1], target[0]))
    if strategy == "resize-crop":
        return ResizeCrop(size=crop, shortest_edge=target)
    return Letterbox(size=crop, shortest_edge=target, fill=by_name["pad_to_square"]["fill_rgb"])


def test_prismatic_all_encoders_and_strategies() -> None:
    folder, facts, expected = golden("prismatic/preprocess")
    for name, case in facts["cases"].items():
        encoder, strategy, photo, stream = name.split("/")
        steps = facts["transform_steps"][f"{encoder}/{strategy}/{stream}"]
        tiles = prismatic_step(strategy, steps)(opened(folder / "inputs" / photo))
        digest = hashlib.sha256(tiles.pictures[0].tobytes()).hexdigest()
        assert digest == case["uint8_sha256"], name
        norm = next(step for step in steps if step["op"] == "normalize")
        pixels = Normalize(mean=norm["mean"], std=norm["std"])(tiles).tensor()[0]
        assert list(pixels.shape) == case["shape"]
        torch.testing.assert_close(pixels[:, 5::12, 5::12], expected[name], atol=1e-5, rtol=0)


@pytest.mark.parametrize("case", ["anyres_single", "interleave_multi"])
def test_xgen_anyres_tiles(case: str) -> None:
    folder, facts, expected = golden(f"xgen_mm/{case}")
    step = AnyRes(size=facts["config"]["vision"]["image"], grids=facts["config"]["anyres_grids"])
    for name, image in facts["images"].items():
        tiles = HALF(step(opened(folder / "inputs" / name)))
        assert tiles.grid == tuple(image["grid_w_h"])
        assert tiles.size == tuple(image["original_size"])
        key = f"pre/{name}/pixel_values"
        if key in expected:
            assert torch.equal(tiles.tensor(), expected[key]), name


def test_xgen_at_real_size() -> None:
    folder, _, expected = golden("xgen_mm/anyres_single")
    for name in ("cat.png", "rocket_wide.jpg"):
        pixels = HALF(AnyRes(size=384)(opened(folder / "inputs" / name))).tensor()
        thin = expected[f"realscale/{name}/every_48th_pixel"]
        assert torch.equal(pixels[: len(thin), :, ::48, ::48], thin)
        means = expected[f"realscale/{name}/tile_mean"]
        torch.testing.assert_close(pixels.mean(dim=(2, 3))[: len(means)], means, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("case", "side", "stride"), [("ens5_2shard", 448, 7), ("ens_1shard", 224, 4)]
)
def test_sphinx_square(case: str, side: int, stride: int) -> None:
    folder, _, expected = golden(f"sphinx/{case}")
    for key, tensor in expected.items():
        if not key.startswith(("pre.u8.", "pre.norm_")):
            continue
        tiles = Resize(size=side)(SPHINX_PAD(opened(folder / "inputs" / key.split(".", 2)[2])))
        if key.startswith("pre.u8."):
            assert torch.equal(tiles.tensor()[0].permute(1, 2, 0), tensor), key
        else:
            assert torch.equal(CLIP(tiles).tensor()[0, :, ::stride, ::stride], tensor), key


def test_sphinx_views() -> None:
    folder, _, expected = golden("sphinx/ens5_2shard")
    tiles = CLIP(Resize(size=448)(SPHINX_PAD(opened(folder / "inputs/rocket.png"))))
    views = Quadrants()(tiles)
    assert views.grid == (2, 2)
    pixels = views.tensor()
    assert pixels.shape == (5, 3, 224, 224)
    assert torch.equal(pixels[0, :, ::2, ::2].half(), expected["pre.thumb224_half_s2"])
    assert torch.equal(pixels[3], tiles.tensor()[0, :, 224:, :224])
    convnext = TensorResize(size=256, mode="nearest", half=True).on_tensor(pixels[:1])
    assert torch.equal(convnext[0, :, ::8, ::8].half(), expected["pre.convnext256_s8"])


@pytest.mark.parametrize(("case", "side"), [("vision_lora", 56), ("audio_document_mix", 42)])
def test_multi_token_clip_processor(case: str, side: int) -> None:
    folder, _, expected = golden(f"multi_token/{case}")
    requests = json.loads((folder / "inputs/request.json").read_text())["requests"]
    step = ResizeCrop(size=side, rounding="floor")
    for index, request in enumerate(requests):
        tiles = [CLIP(step(opened(folder / "inputs" / p))) for p in request["body"]["images"]]
        pixels = torch.cat([t.tensor() for t in tiles])
        torch.testing.assert_close(
            pixels, expected[f"req{index}.vision_clip.preprocessed"], atol=1e-4, rtol=0
        )


def test_crop_after_resize_naive_changes_nothing() -> None:
    folder, _, _ = golden("prismatic/preprocess")
    tiles = Resize(size=224)(opened(folder / "inputs/cat_309x170.png"))
    assert torch.equal(CentreCrop(size=224)(tiles).tensor(), tiles.tensor())
