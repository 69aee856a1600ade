"""SPHINX-V's folder: every key mapped both ways, and the first stage's start from SAM."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from omnimix.checkpoints import base, reading, shards
from omnimix.checkpoints.base import Parts
from omnimix.compose import recipe as recipes
from omnimix.compose.model import MultimodalLM
from omnimix.errors import CheckpointError
from omnimix.families.sphinx import (
    marked as sphinx_v,
    names,
    recipe as sphinx_recipe,
    write as sphinx_write,
)
from omnimix.families.sphinx.folder import SphinxFamily
from omnimix.families.sphinx.names import CUTS, PROMPT_ENCODER
from tests.cases import case_path, golden

CASE = "sphinx_v/ens5_vp"


@pytest.fixture(scope="module")
def stated() -> dict[str, Any]:
    path = case_path("sphinx_v/manifest/SPHINX-V-13b.json.gz")
    found: dict[str, Any] = json.loads(gzip.decompress(path.read_bytes()))
    return found


def on_meta(stated: dict[str, Any]) -> list[dict[str, Tensor]]:
    return [
        {key: torch.empty(shape, device="meta") for key, (shape, _) in keys.items()}
        for keys in stated["files"].values()
    ]


def test_every_key_of_the_release_is_one_parameter_and_back(stated: dict[str, Any]) -> None:
    files = on_meta(stated)
    sizes = shards.Joined([*files], CUTS, list(stated["files"])).sizes
    args = stated["config"]["params.json (llama-2-13b)"]
    said = sphinx_recipe.words("SPHINX-V", stated["llama_type"], args, sizes)
    recipe = sphinx_recipe.recipe(said)
    wanted = recipes.load("sphinx_v")
    assert recipe.modalities == wanted.modalities
    assert recipe.language == wanted.language
    table = names.table(recipe)
    plan = table.reading(sizes)
    assert not plan.unknown and not plan.missing
    assert all("clip" in key or "mask_token" in key for key in plan.unused)
    full = MultimodalLM.on_meta(recipe)
    filled = [name for move in plan.moves for name in move.native]
    assert sorted(filled) == sorted(full.state_dict())
    written = sphinx_write.with_unused(SphinxFamily().foreign(table, full.state_dict(), recipe))
    assert {key: tuple(t.shape) for key, t in written.items()} == sizes
    for rank, keys in enumerate(files):
        for key, tensor in keys.items():
            assert shards.dimension(key, CUTS) == stated["parallel_dim"].get(key), key
            assert shards.piece(key, written[key], CUTS, rank, 2).shape == tensor.shape, key


def test_a_folder_is_written_back_with_every_key(tmp_path: Path) -> None:
    folder, facts, _ = golden(CASE)
    release = base.open_release(folder / "checkpoint")
    assert release.recipe.modalities["region"] == recipes.load("sphinx_v").modalities["region"]
    model, processor, _ = reading.load(release)
    files = SphinxFamily().write(model, processor, tmp_path, shards=2)
    assert json.loads((tmp_path / "meta.json").read_text()) == {"llama_type": facts["llama_type"]}
    for path in files[:2]:
        ours = torch.load(path, weights_only=True)["model"]
        theirs = torch.load(folder / "checkpoint" / path.name, weights_only=True)["model"]
        for key, tensor in ours.items():
            if "mask_token" not in key:
                assert torch.equal(tensor.float(), theirs[key].float()), key
        assert "llma.vp_encoder.pe_layer.positional_encoding_gaussian_matrix" in ours
        assert ours["llma.start_vp"].shape == (1, 1, 64)


def test_sam_gives_the_golden_start() -> None:
    folder, facts, expected = golden(CASE)
    found = sphinx_v.from_sam(folder / "inputs/sam_tiny.pth")
    renamed = {"matrix": names.MATRIX}
    ours = {name.removeprefix(PROMPT_ENCODER): tensor for name, tensor in found.items()}
    ours = {renamed.get(name, name): tensor for name, tensor in ours.items()}
    mapping = facts["results"]["sam_mapping"]
    assert set(ours) == {key for key, source in mapping.items() if source.startswith("prompt")}
    for key, tensor in ours.items():
        assert torch.equal(tensor, expected[f"sam.{key}"]), key


def test_the_first_stage_starts_from_sphinx_and_sam() -> None:
    folder, _, expected = golden(CASE)
    model, processor = sphinx_v.start(
        case_path("sphinx/ens5_2shard/checkpoint"), folder / "inputs/sam_tiny.pth"
    )
    assert list(model.recipe.modalities) == ["image", "region"]
    assert processor.weave.tokens_per_tile["region"] == 12
    state = model.state_dict()
    assert torch.equal(
        state[f"{PROMPT_ENCODER}matrix"],
        expected["sam.pe_layer.positional_encoding_gaussian_matrix"],
    )
    assert not state[f"{PROMPT_ENCODER}up.bias"].any()
    again, _ = sphinx_v.start(
        case_path("sphinx/ens5_2shard/checkpoint"), folder / "inputs/sam_tiny.pth"
    )
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, state[name]), name


def test_a_start_that_cannot_be(tmp_path: Path) -> None:
    folder, _, _ = golden(CASE)
    with pytest.raises(CheckpointError, match=r"no such file of SAM's weights. Get sam_vit_h"):
        sphinx_v.from_sam(tmp_path / "sam.pth")
    torch.save(
        {"prompt_encoder.point_embeddings.0.weight": torch.zeros(1, 256)}, tmp_path / "s.pth"
    )
    with pytest.raises(CheckpointError, match="this is no SAM: nothing for"):
        sphinx_v.from_sam(tmp_path / "s.pth")
    with pytest.raises(CheckpointError, match="this is no SAM: unexpected keys"):
        sphinx_v.from_sam(folder / "checkpoint/consolidated.00-of-02.model.pth")
    for case in ("sphinx/ens_1shard", CASE):
        with pytest.raises(CheckpointError, match="starts from a SPHINX of 448 pixels"):
            sphinx_v.start(case_path(f"{case}/checkpoint"), folder / "inputs/sam_tiny.pth")


def test_a_prompt_encoder_that_is_missing(tmp_path: Path) -> None:
    """A folder of SPHINX that calls itself SPHINX-V."""
    words = {"llama_type": "llama_ens5_vp", "dino_heads": 2, "vit_heads": 2}
    words |= {"qformer_heads": 3, "clip_heads": 3}
    source = case_path("sphinx/ens5_2shard/checkpoint")
    with pytest.raises(CheckpointError, match="'llama_ens5_vp' is asked for, and the folder says"):
        base.open_release(source, Parts(words=words))
    for file in source.iterdir():
        if file.name != "meta.json":
            (tmp_path / file.name).symlink_to(file)
    with pytest.raises(CheckpointError, match=r"no such key in the shards: llma.vp_encoder.up"):
        base.open_release(tmp_path, Parts(words=words))
