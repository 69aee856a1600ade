"""Prismatic: every public golden case, and every full-size release by its manifest."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
import torch

from omnimix.checkpoints import tables
from omnimix.compose.model import MultimodalLM
from omnimix.compose.recipe import Recipe
from omnimix.convert.verifying import verify
from omnimix.families.prismatic import names, recipe as prismatic
from omnimix.families.prismatic.write import SECTION
from tests.cases import case_path

STAGES = {
    "clip_mlp_vicuna": {"prompt", "ids", "pixels", "features", "connector tokens", "embeddings"}
    | {"logits", "answers", "probabilities", "labels", "loss", "gradients", "groups", "rates"}
    | {"start", "batches", "losses", "gradient norms", "training gradients", "weights"},
    "dinosiglip_gelu": {"prompt", "ids", "pixels", "features", "logits", "answers", "weights"},
    "preprocess": {"pictures", "pixels", "steps"},
    "text_and_data": {"prompt", "ids", "dataset ids", "labels", "collator", "order by modality"}
    | {"order shuffled", "rates", "word counts", "tokenizers"},
}


@pytest.mark.parametrize("name", STAGES)
def test_public_cases_agree(name: str) -> None:
    report = verify(case_path(f"prismatic/{name}"))
    assert report.failed is None, report.failed
    assert {line.stage for line in report.lines()} >= STAGES[name]
    assert report.unread == []


def manifests() -> list[str]:
    names = ["dinoclip-336px-letterbox+7b", "dinov2-224px+7b", "full-ft-one-stage+7b"]
    names += ["in1k-224px+7b", "mistral-v0.1+7b", "phi-2+3b", "prism-clip+7b", "prism-siglip+7b"]
    names += ["prism-dinosiglip+7b", "prism-dinosiglip+13b", "reproduction-llava-v15+13b"]
    return names


def manifest(name: str) -> dict[str, Any]:
    path = case_path(f"prismatic/manifest/{name}.json.gz")
    return dict(json.loads(gzip.decompress(path.read_bytes())))


def recipe_of(facts: dict[str, Any]) -> Recipe:
    config = facts["config"]
    section = dict(config["model"])
    kind = prismatic.LLMS[section["llm_backbone_id"]].kind
    words = prismatic.Words(
        **{word: section[word] for word in SECTION},
        llm={"model_type": kind, **config["llm_base_config"]},
        tokens=config["tokenizer_length_with_pad"],
        tidy=False,
        patches=config["num_patches"],
    )
    return prismatic.recipe(words)


def test_every_manifest_is_looked_at() -> None:
    folder = case_path("prismatic/manifest")
    assert sorted(f"{name}.json.gz" for name in manifests()) == sorted(
        path.name for path in folder.glob("*.json.gz")
    )


@pytest.mark.parametrize("name", manifests())
def test_manifests_map_both_ways(name: str) -> None:
    """Every key is exactly one parameter of equal shape or unused with a reason, and back."""
    facts = manifest(name)
    recipe = recipe_of(facts)
    stored = {
        key.replace("|", "."): torch.empty(shape, device="meta")
        for keys in facts["files"].values()
        for key, (shape, _) in keys.items()
    }
    (vision,) = facts["not_in_checkpoint"].values() if facts["not_in_checkpoint"] else ({},)
    stored |= {
        f"model.vision_backbone.{key}": torch.empty(shape, device="meta")
        for key, (shape, _) in vision.items()
    }
    table = names.trained_table(recipe)
    plan = table.reading(stored)
    assert not plan.unknown and not plan.missing
    found = tables.read(plan, stored)
    model = MultimodalLM.on_meta(recipe)
    wanted = {key: tensor.shape for key, tensor in model.state_dict().items()}
    assert {key: tensor.shape for key, tensor in found.items()} == wanted
    assert len(found) == sum(len(move.native) for move in plan.moves)
    # What is not built lies behind the block that is read, or is a head nobody asks.
    assert all(reason for reason in plan.unused.values())
    back = tables.write(table.writing(wanted), model.state_dict())
    assert {key: tensor.shape for key, tensor in back.items()} == {
        key: tensor.shape for key, tensor in stored.items() if key not in plan.unused
    }
    rows = facts["config"]["embedding_rows"]
    assert model.get_input_embeddings().weight.shape[0] == rows
    assert model.tokens_per_tile["image"] == facts["config"]["num_patches"]
