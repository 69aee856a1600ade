"""Regions to masks through models of the SAM family, tiny and random."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from omnimix.cli.main import app
from omnimix.errors import CheckpointError, RegionError
from omnimix.registry import SEGMENTERS
from omnimix.segment.base import Segmenter, load_segmenter
from omnimix.segment.sam import CLASSES
from omnimix.types import Box, Mask, Point, Polygon, Region, Stroke
from tests.segment.models import tiny_sam, tiny_sam2, tiny_sam_file

WIDTH, HEIGHT = 150, 70


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sam(tmp_path_factory.mktemp("sam"))


@pytest.fixture(scope="module")
def segmenter(folder: Path) -> Segmenter:
    return load_segmenter(folder, "cpu")


def regions() -> list[Region]:
    pixels = np.zeros((HEIGHT, WIDTH), dtype=bool)
    pixels[20:40, 30:90] = True
    return [
        Box(10, 10, 80, 60, label="cup"),
        Point(40, 30),
        Stroke(((5, 5), (90, 60))),
        Polygon(((5, 5), (90, 60), (5, 60))),
        Mask(pixels),
    ]


def test_every_kind_of_region_gives_a_mask_of_the_picture(
    segmenter: Segmenter, picture: Image.Image
) -> None:
    masks = segmenter.segment(picture, regions())
    assert [mask.pixels.shape for mask in masks] == [(HEIGHT, WIDTH)] * 5
    assert all(mask.pixels.dtype == bool for mask in masks)
    assert [mask.label for mask in masks] == ["cup", "", "", "", ""]
    assert len({mask.area() for mask in masks}) == 5
    assert segmenter.segment(picture, []) == []


def test_the_mask_is_that_of_transformers_itself(
    folder: Path, segmenter: Segmenter, picture: Image.Image
) -> None:
    from transformers import SamModel, SamProcessor

    model, processor = SamModel.from_pretrained(folder), SamProcessor.from_pretrained(folder)
    inputs = processor(images=picture, input_boxes=[[[10, 10, 80, 60]]], return_tensors="pt")
    with torch.no_grad():
        out = model(**inputs, multimask_output=False)
    (wanted,) = processor.post_process_masks(
        out.pred_masks, inputs["original_sizes"], inputs["reshaped_input_sizes"]
    )
    (mask,) = segmenter.segment(picture, [Box(10, 10, 80, 60)])
    assert np.array_equal(mask.pixels, wanted[0, 0].numpy())
    assert 0 < mask.area() < WIDTH * HEIGHT


def test_sam_2_serves_as_well(tmp_path: Path, picture: Image.Image) -> None:
    masks = load_segmenter(tiny_sam2(tmp_path), "cpu").segment(picture, regions())
    assert [mask.pixels.shape for mask in masks] == [(HEIGHT, WIDTH)] * 5


def test_a_file_of_sam_itself_opens(
    folder: Path, segmenter: Segmenter, picture: Image.Image, tmp_path: Path
) -> None:
    file = tiny_sam_file(folder, tmp_path / "sam_vit_x.pth")
    masks = load_segmenter(file, "cpu").segment(picture, regions())
    for mask, wanted in zip(masks, segmenter.segment(picture, regions()), strict=True):
        assert np.array_equal(mask.pixels, wanted.pixels)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop("mask_decoder.iou_token.weight"), r"no whole SAM .*iou_token"),
        (lambda t: t.pop("image_encoder.blocks.1.norm2.bias"), r"1 tensors are missing, vision"),
        (lambda t: t.update(other=torch.ones(1)), "holds other, which SAM has not"),
        (lambda t: t.update({"image_encoder.neck.3.bias": torch.ones(3)}), "cannot be loaded"),
        (
            lambda t: t.update({"image_encoder.patch_embed.seq.0.c.weight": torch.ones(1)}),
            r"this is MobileSAM.*EdgeTAM",
        ),
        (lambda t: t.update({"mask_decoder.hf_token.weight": torch.ones(1)}), "this is SAM-HQ"),
    ],
)
def test_other_files_are_refused_by_name(
    folder: Path, tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], object], said: str
) -> None:
    file = tiny_sam_file(folder, tmp_path / "sam.pth")
    tensors = torch.load(file, weights_only=True)
    change(tensors)
    torch.save(tensors, file)
    with pytest.raises(CheckpointError, match=said):
        load_segmenter(file, "cpu")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        load_segmenter(tmp_path / "sam_vit_h_4b8939.pth")


def test_every_class_of_the_table_is_there() -> None:
    import transformers

    for names in CLASSES.values():
        assert all(hasattr(transformers, name) for name in names)
    assert set(CLASSES) == set(SEGMENTERS)


def test_a_region_off_the_picture_is_refused(segmenter: Segmenter, picture: Image.Image) -> None:
    with pytest.raises(RegionError, match=r"region 2: the box .* lies outside the picture"):
        segmenter.segment(picture, [Point(1, 1), Box(200, 0, 300, 50)])


def test_missing_weights_say_where_they_are_to_be_had(
    tmp_path: Path, tiny_folder: Path, folder: Path
) -> None:
    for weights in (None, tmp_path, tmp_path / "nowhere", tiny_folder):
        with pytest.raises(CheckpointError) as caught:
            load_segmenter(weights)
        assert "facebook/sam" in str(caught.value) and "\n" not in str(caught.value)
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in folder.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    weights = load_file(folder / "model.safetensors")
    weights.pop("mask_decoder.iou_token.weight")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"1 tensors are missing, mask_decoder\.iou_token"):
        load_segmenter(broken)


def test_the_command(folder: Path, picture: Image.Image, tmp_path: Path) -> None:
    image, out, drawn = tmp_path / "a.png", tmp_path / "m.png", tmp_path / "d.png"
    picture.save(image)
    words = ["segment", str(image), "--weights", str(folder), "--out", str(out)]
    more = ["--box", "10", "10", "80", "60", "--point", "40,30", "--draw", str(drawn), "--json"]
    result = CliRunner().invoke(app, [*words, *more])
    assert result.exit_code == 0, result.output
    masks = json.loads(result.stdout)["masks"]
    for i, one in enumerate(masks, start=1):
        mask = Mask.from_rle(one["rle"])
        again = Mask.from_png(tmp_path / f"m-{i}.png")
        assert np.array_equal(mask.pixels, again.pixels) and one["area"] == mask.area()
    assert len(masks) == 2 and drawn.is_file()
    alone = CliRunner().invoke(app, [*words, "--point", "40", "30"])
    assert alone.exit_code == 0 and out.is_file()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "no region is named"),
        (["--point", "1", "2"], "facebook/sam"),
        (["--region", '{"polygon": 3}'], "list of points"),
    ],
)
def test_the_command_refuses(words: list[str], said: str, tmp_path: Path) -> None:
    image = tmp_path / "a.png"
    Image.new("RGB", (9, 9)).save(image)
    result = CliRunner().invoke(app, ["segment", str(image), *words])
    assert result.exit_code == 2 and said in " ".join(result.output.split())
