"""SPHINX's folders: every key of the releases mapped, shards joined and cut anew, refusals in words."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from omnimix.checkpoints import base, reading, shards, sphinx, sphinx_recipe, sphinx_write, tables
from omnimix.checkpoints.base import Parts
from omnimix.checkpoints.sphinx_recipe import Facts
from omnimix.checkpoints.sphinx_tables import CUTS, halves, pairs
from omnimix.compose import recipe as recipes
from omnimix.compose.model import MultimodalLM
from omnimix.verify import certificate
from tests.shared import shared

TWO = "fixtures/sphinx/ens5_2shard"
ONE = "fixtures/sphinx/ens_1shard"
RELEASES = ("SPHINX", "SPHINX-1k", "SPHINX-v2-1k")


def manifest(release: str) -> dict[str, Any]:
    path = shared(f"fixtures/sphinx/manifest/{release}.json.gz")
    found: dict[str, Any] = json.loads(gzip.decompress(path.read_bytes()))
    return found


def on_meta(stated: Mapping[str, Any]) -> list[dict[str, Tensor]]:
    return [
        {key: torch.empty(shape, device="meta") for key, (shape, _) in keys.items()}
        for keys in stated["files"].values()
    ]


@pytest.fixture(scope="module")
def full() -> MultimodalLM:
    """A release at its real size, without memory; how many views it has changes no weight."""
    return MultimodalLM.on_meta(recipes.load("sphinx_1k"))


@pytest.mark.parametrize("release", RELEASES)
def test_every_key_of_the_release_is_one_parameter_and_back(
    release: str, full: MultimodalLM
) -> None:
    stated = manifest(release)
    files = on_meta(stated)
    sizes = shards.Joined([*files], CUTS, list(stated["files"])).sizes
    stored = {key: torch.empty(size, device="meta") for key, size in sizes.items()}
    for key in stored:
        assert shards.dimension(key, CUTS) == stated["parallel_dim"].get(key), key
    args = stated["config"]["params.json (llama-2-13b)"]
    facts = Facts(stated["llama_type"], args, sizes)
    recipe = sphinx_recipe.build(facts, release, "test")
    plan = sphinx.recipe_table(recipe).reading(stored)
    assert not plan.unknown and not plan.missing
    assert len(plan.unused) == 8 and all("clip" in k or "mask_token" in k for k in plan.unused)
    sources = [name for move in plan.moves for name in move.foreign]
    assert sorted([*sources, *plan.unused]) == sorted(stored)  # each exactly once
    wanted = {key: tensor.shape for key, tensor in full.state_dict().items()}
    assert {key: t.shape for key, t in tables.read(plan, stored).items()} == wanted
    written = sphinx_write.tensors(full)
    assert {key: tuple(t.shape) for key, t in written.items()} == sizes
    for rank, keys in enumerate(files):
        for key, tensor in keys.items():
            assert shards.piece(key, written[key], CUTS, rank, 2).shape == tensor.shape, key


@pytest.mark.parametrize("llama_type", ["llama_ens", "llama_ens5", "llama_ens10"])
def test_a_release_is_the_shipped_recipe(llama_type: str) -> None:
    stated = manifest("SPHINX")
    sizes = shards.Joined(on_meta(stated), CUTS, ["0", "1"]).sizes
    args = stated["config"]["config.json as the save routine writes it"]
    found = sphinx_recipe.build(Facts(llama_type, args, sizes), "test", "test")
    wanted = recipes.load(sphinx_recipe.TYPES[llama_type])
    assert found.modalities == wanted.modalities
    assert found.language == wanted.language
    assert found.template == wanted.template
    assert found.coordinates == wanted.coordinates


def test_rotary_order_there_and_back() -> None:
    weight = torch.arange(2 * 8 * 3.0).reshape(16, 3)  # two heads of eight rows
    turned = halves(weight, 2)
    assert turned[:8, 0].tolist() == [0, 6, 12, 18, 3, 9, 15, 21]  # even rows, then odd ones
    assert torch.equal(pairs(turned, 2), weight)


@pytest.mark.parametrize(("case", "numbers"), [(TWO, (1, 4)), (ONE, (2,))])
def test_another_number_of_shards_is_the_same_model(
    case: str, numbers: tuple[int, ...], tmp_path: Path
) -> None:
    source = shared(case) / "checkpoint"
    release = base.open_release(source)
    model, processor, report = reading.load(release)
    assert report.used + len(report.unused) == 268
    expected = certificate.probe(model, processor)
    for number in numbers:
        out = tmp_path / str(number)
        sphinx_write.recut(source, out, number)
        assert len(list(out.glob("*.pth"))) == number
        again = base.open_release(out, Parts(words=dict(base_words(source))))
        twin, processor, _ = reading.load(again)
        for check in certificate.compare(
            certificate.answers(twin, processor, expected["picture"].numpy()), expected
        ):
            assert check.difference == 0, check
        back = tmp_path / f"{number} back"
        count = len(release.layout.files)
        sphinx_write.recut(out, back, count)
        for path in release.layout.files:
            ours = torch.load(back / path.name, weights_only=True)["model"]
            theirs = torch.load(path, weights_only=True)["model"]
            assert list(ours) == list(theirs)
            assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def base_words(checkpoint: Path) -> Mapping[str, Any]:
    case = json.loads((checkpoint.parent / "case.json").read_text(encoding="utf-8"))
    return sphinx.case_words(case)


def copied(tmp_path: Path, case: str = TWO) -> Path:
    out = tmp_path / "checkpoint"
    shutil.copytree(shared(case) / "checkpoint", out, copy_function=shutil.copyfile)
    out.chmod(0o755)
    words = dict(base_words(shared(case) / "checkpoint"))
    (out / "parts.json").write_text(json.dumps({"words": words}), encoding="utf-8")
    return out
