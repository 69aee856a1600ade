"""`omnimix soup`: exact interpolation, the certificate, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor
from typer.testing import CliRunner

import omnimix
from omnimix.checkpoints import writing
from omnimix.cli.main import app
from omnimix.compose.model import MultimodalLM
from omnimix.convert import weights as mixing
from omnimix.convert.mixing import soup
from omnimix.convert.verifying import verify
from omnimix.errors import CheckpointError, OmnimixError


def copied(folder: Path, to: Path) -> dict[str, Tensor]:
    """A copy of a model folder whose weights may be changed."""
    shutil.copytree(folder, to)
    return load_file(to / "model.safetensors")


def stored(tensors: dict[str, Tensor], to: Path) -> None:
    held = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(held, to / "model.safetensors", {"format": "pt"})


@pytest.fixture(scope="module")
def other(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another model of the same recipe; its counters differ too."""
    to = tmp_path_factory.mktemp("soup") / "other"
    tensors = copied(tiny_folder, to)
    chance = torch.Generator().manual_seed(1)
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            tensors[name] = tensor + torch.randn(tensor.shape, generator=chance)
        else:
            tensors[name] = tensor + 1
    stored(tensors, to)
    return to


def weights(folder: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= load_file(file)
    return found


def test_every_tensor_is_the_weighted_sum(tiny_folder: Path, other: Path, tmp_path: Path) -> None:
    facts = soup(tiny_folder, other, tmp_path / "out", 0.7, {"language": 0.2})
    a, b, found = weights(tiny_folder), weights(other), weights(tmp_path / "out")
    assert found.keys() == a.keys()
    for name, tensor in found.items():
        beta = 0.2 if name.startswith("language.") else 0.7
        if not tensor.is_floating_point():
            assert torch.equal(tensor, a[name]) and facts["not_mixed"][name] == "a"
            continue
        torch.testing.assert_close(tensor, beta * a[name] + (1 - beta) * b[name])
    assert facts["not_mixed"], "the counters of the stem's batch norm differ"
    model = omnimix.load(tmp_path / "out").model
    tied = model.get_output_embeddings().weight
    assert tied.data_ptr() == model.get_input_embeddings().weight.data_ptr()


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_the_ends_are_the_models_themselves(
    tiny_folder: Path, other: Path, tmp_path: Path, weight: float
) -> None:
    soup(tiny_folder, other, tmp_path / "out", weight)
    whole = weights(tiny_folder if weight else other)
    assert all(torch.equal(t, whole[n]) for n, t in weights(tmp_path / "out").items())


def test_the_certificate_can_be_checked(tiny_folder: Path, other: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    facts = soup(tiny_folder, other, out)
    assert json.loads((out / "certificate.json").read_text()) == facts
    held = weights(out)
    language = sum(float(t.square().sum()) for n, t in held.items() if n.startswith("language."))
    assert facts["norms"]["language"]["result"] == pytest.approx(language**0.5, rel=1e-4)
    assert facts["a"]["files"]["model.safetensors"] != facts["b"]["files"]["model.safetensors"]
    assert verify(out).passed
    name = "language.model.norm.weight"
    stored({**held, name: held[name] + 0.1}, out)
    failed = verify(out).failed
    assert failed is not None and failed.what == "language"


def test_several_files_and_half_precision(tiny_folder: Path, other: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    soup(tiny_folder, other, out, dtype="bfloat16", shard=20_000)
    assert len(list(out.glob("model-*-of-*.safetensors"))) > 2
    dtypes = {t.dtype for t in weights(out).values() if t.is_floating_point()}
    assert dtypes == {torch.bfloat16}
    model = MultimodalLM.from_pretrained(out, dtype=torch.float32)
    name = "language.model.layers.0.mlp.up_proj.weight"
    mean = (weights(tiny_folder)[name] + weights(other)[name]) / 2
    assert torch.equal(model.state_dict()[name], mean.bfloat16().float())


def test_pieces_and_whole_tensors_are_alike(
    tiny_folder: Path, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = (mixing.opened(str(f), mixing.native(f)) for f in (tiny_folder, other))
    name = "language.model.embed_tokens.weight"
    whole = mixing.Mixer(a, b, mixing.Weighting(), None).tensor(name)
    monkeypatch.setattr(mixing, "PIECE", 7)
    assert torch.equal(mixing.Mixer(a, b, mixing.Weighting(), None).tensor(name), whole)


def test_the_longest_part_counts() -> None:
    shares = mixing.Weighting(0.5, {"image": 0.1, "image.branches.0.connector": 0.9})
    assert shares.of("image.branches.0.connector.0.weight") == 0.9
    assert shares.of("image.branches.0.encoders.0.trunk.norm.weight") == 0.1
    assert shares.of("images.weight") == shares.of("language.lm_head.weight") == 0.5


def test_a_file_is_what_safetensors_writes(tmp_path: Path) -> None:
    tensors = {
        "b": torch.arange(5, dtype=torch.int64),
        "a": torch.randn(3, 2).bfloat16(),
        "mask": torch.tensor([True, False, True]),
        "empty": torch.zeros(0, 4),
        "scalar": torch.tensor(2.5),
    }
    sketches = {name: tensor.to("meta") for name, tensor in tensors.items()}
    [file] = writing.write(tmp_path, sketches, lambda name: tensors[name].flatten().split(2))
    found = load_file(file)
    assert all(torch.equal(found[n], t) and found[n].dtype == t.dtype for n, t in tensors.items())


def refused(a: Path, b: Path, out: Path, **words: Any) -> str:
    with pytest.raises(OmnimixError) as caught:
        soup(a, b, out, **words)
    return caught.value.sentence()


def test_what_is_refused(tiny_folder: Path, other: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert "outside 0 to 1" in refused(tiny_folder, other, out, weight=1.5)
    assert "image.branches.0.connector" in refused(tiny_folder, other, out, per_part={"vision": 1})
    assert "nan" in refused(tiny_folder, other, out, weight=float("nan"))
    lacking = tmp_path / "lacking"
    tensors = copied(other, lacking)
    gone = "language.model.norm.weight"
    del tensors[gone]
    stored(tensors, lacking)
    assert gone in refused(tiny_folder, lacking, out)
    assert not out.exists()
    soup(tiny_folder, lacking, out, partial=True)
    assert torch.equal(weights(out)[gone], weights(tiny_folder)[gone])
    assert "exists already" in refused(tiny_folder, other, out)


def test_the_first_difference_of_recipes_is_named(
    tiny_folder: Path, other: Path, tmp_path: Path
) -> None:
    strange = tmp_path / "strange"
    copied(other, strange)
    words = yaml.safe_load((strange / "recipe.yaml").read_text())
    words["name"], words["language"]["config"]["rope_theta"] = "another name", 500.0
    (strange / "recipe.yaml").write_text(yaml.safe_dump(words))
    said = refused(tiny_folder, strange, tmp_path / "out")
    assert "language.config.rope_theta" in said and "500.0" in said


def test_nothing_is_left_where_it_fails(
    tiny_folder: Path, other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise CheckpointError("the disk is full")

    monkeypatch.setattr(mixing, "write", full)
    refused(tiny_folder, other, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command(tiny_folder: Path, other: Path, tmp_path: Path) -> None:
    words = ["soup", str(tiny_folder), str(other), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, [*words, "--weight", "1.5", "--extrapolate"])
    assert done.exit_code == 0, done.output
    assert "language:" in done.output and "written" in done.output
    again = CliRunner().invoke(app, words)
    assert again.exit_code == 2
    wrong = CliRunner().invoke(app, [*words, "--per-part", "language"])
    assert wrong.exit_code == 2 and "PART=SHARE" in wrong.output
