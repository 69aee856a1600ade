"""The resampler and the row bands against xGen-MM's numbers."""

from __future__ import annotations

import gzip
import json

import pytest
import torch
from safetensors.torch import load_file

from omnimix.connectors.arrange import RowBands
from omnimix.connectors.perceiver import Perceiver
from omnimix.errors import RecipeError
from omnimix.media.tiling import AnyRes
from tests.cases import case_path, golden

CASES = ["anyres_single", "interleave_multi"]


@pytest.mark.parametrize("case", CASES)
def test_resampler_matches_the_reference(case: str) -> None:
    folder, facts, expected = golden(f"xgen_mm/{case}")
    state: dict[str, torch.Tensor] = {}
    for path in sorted((folder / "checkpoint/hf_hub").glob("*.safetensors")):
        state.update(load_file(path))
    prefix = "vlm.vision_tokenizer."
    state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    spec = Perceiver(latents=facts["config"]["num_vision_tokens"], **facts["config"]["resampler"])
    width_out, width_in = state["projection.weight"].shape
    module = spec.build(9, width_in, width_out)
    module.load_state_dict(state)
    for name in facts["images"]:
        features = expected[f"vis/{name}/regrouped"]
        mask = expected[f"vis/{name}/mask"].bool()
        with torch.no_grad():
            masked, plain = module(features, mask), module(features)
        torch.testing.assert_close(masked, expected[f"vis/{name}/tokens"], atol=1e-4, rtol=0)
        torch.testing.assert_close(plain, expected[f"vis/{name}/tokens_nomask"], atol=1e-4, rtol=0)


def test_default_sizes_are_those_of_the_release() -> None:
    (path,) = case_path("xgen_mm/manifest").glob("*hf_hub_fp32.json.gz")
    text = json.dumps(json.loads(gzip.decompress(path.read_bytes())))
    with torch.device("meta"):
        state = Perceiver().build(729, 1152, 3072).state_dict()
    for key, tensor in state.items():
        assert f'"vlm.vision_tokenizer.{key}": [{list(tensor.shape)}' in text, key
    assert text.count('"vlm.vision_tokenizer.') == len(state)


def test_a_hidden_feature_changes_nothing() -> None:
    module = Perceiver(latents=3, depth=2, heads=2, dim_head=4).build(5, 8, 6).eval()
    features = torch.randn(2, 5, 8)
    mask = torch.tensor([[True, True, False, True, False], [False] * 5])
    other = torch.where(mask[..., None], features, torch.randn(2, 5, 8))
    torch.testing.assert_close(module(features, mask), module(other, mask))
    assert module(features, mask).isfinite().all()


@pytest.mark.parametrize("case", CASES)
def test_row_bands_match_the_reference(case: str) -> None:
    _, facts, expected = golden(f"xgen_mm/{case}")
    for name, image in facts["images"].items():
        features, mask = RowBands()(
            expected[f"vis/{name}/last_hidden_state"],
            tuple(image["original_size"]),
            tuple(image["grid_w_h"]),
        )
        assert torch.equal(features, expected[f"vis/{name}/regrouped"])
        assert torch.equal(mask.to(torch.uint8), expected[f"vis/{name}/mask"])


def test_row_bands_at_real_size() -> None:
    _, _, expected = golden("xgen_mm/anyres_single")
    for key, tensor in expected.items():
        kind, _, sizes = key.removeprefix("realscale/").partition("/")
        if not key.startswith("realscale/") or kind not in ("mask", "regroup_index"):
            continue
        width, height = map(int, sizes.split("x"))
        size = (width, height) if kind == "mask" else (100, 100)
        grid = AnyRes(size=384).best_grid(*size) if kind == "mask" else (width, height)
        count = 1 + grid[0] * grid[1]
        places = torch.arange(count * 729.0).reshape(count, 729, 1)
        features, mask = RowBands()(places, size, grid)
        if kind == "mask":
            assert torch.equal(mask.to(torch.uint8), tensor), key
        else:
            assert torch.equal(features[..., 0].to(tensor.dtype), tensor), key


def test_row_bands_of_a_single_tile_and_of_what_does_not_fit() -> None:
    features = torch.rand(1, 7, 2)
    same, mask = RowBands()(features, (10, 10), (0, 0))
    assert torch.equal(same, features)
    assert mask.all()
    with pytest.raises(RecipeError, match="anyres"):
        RowBands()(features, (10, 10), (2, 1))
    with pytest.raises(RecipeError, match="drop_prefix"):
        RowBands()(torch.rand(3, 7, 2), (10, 10), (2, 1))
