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
from omnimix_golden.parts import of_case
from torch import Tensor

from omnimix.checkpoints import base, reading, shards, tables, writing
from omnimix.checkpoints.base import Parts
from omnimix.compose import recipe as recipes
from omnimix.compose.model import MultimodalLM
from omnimix.compose.processor import Processor
from omnimix.convert import certificate
from omnimix.errors import CheckpointError
from omnimix.families.sphinx import names, recipe as sphinx_recipe, write as sphinx_write
from omnimix.families.sphinx.folder import SphinxFamily
from omnimix.families.sphinx.names import CUTS, halves, pairs
from tests.cases import case_path

TWO = "sphinx/ens5_2shard"
ONE = "sphinx/ens_1shard"
RELEASES = ("SPHINX", "SPHINX-1k", "SPHINX-v2-1k")


def manifest(release: str) -> dict[str, Any]:
    path = case_path(f"sphinx/manifest/{release}.json.gz")
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
    recipe = sphinx_recipe.recipe(sphinx_recipe.words(release, stated["llama_type"], args, sizes))
    table = names.table(recipe)
    plan = table.reading(stored)
    assert not plan.unknown and not plan.missing
    assert len(plan.unused) == 8 and all("clip" in k or "mask_token" in k for k in plan.unused)
    sources = [name for move in plan.moves for name in move.foreign]
    assert sorted([*sources, *plan.unused]) == sorted(stored)  # each exactly once
    wanted = {key: tensor.shape for key, tensor in full.state_dict().items()}
    assert {key: t.shape for key, t in tables.read(plan, stored).items()} == wanted
    state = full.state_dict()
    written = sphinx_write.with_unused(SphinxFamily().foreign(table, state, recipe))
    assert {key: tuple(t.shape) for key, t in written.items()} == sizes
    for rank, keys in enumerate(files):
        for key, tensor in keys.items():
            assert shards.piece(key, written[key], CUTS, rank, 2).shape == tensor.shape, key


@pytest.mark.parametrize("llama_type", ["llama_ens", "llama_ens5", "llama_ens10"])
def test_a_release_is_the_shipped_recipe(llama_type: str) -> None:
    stated = manifest("SPHINX")
    sizes = shards.Joined(on_meta(stated), CUTS, ["0", "1"]).sizes
    args = stated["config"]["config.json as the save routine writes it"]
    found = sphinx_recipe.recipe(sphinx_recipe.words("test", llama_type, args, sizes))
    wanted = recipes.load(sphinx_recipe.TYPES[llama_type])
    assert sphinx_recipe.words_of(wanted).llama_type == llama_type
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
    source = case_path(case) / "checkpoint"
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
    return of_case(checkpoint.parent).words


def copied(tmp_path: Path, case: str = TWO) -> Path:
    out = tmp_path / "checkpoint"
    shutil.copytree(case_path(case) / "checkpoint", out, copy_function=shutil.copyfile)
    out.chmod(0o755)
    words = dict(base_words(case_path(case) / "checkpoint"))
    (out / "parts.json").write_text(json.dumps({"words": words}), encoding="utf-8")
    return out


# --- what is found, and what is said in its place ---


def write_meta(out: Path, words: Mapping[str, Any]) -> None:
    (out / "meta.json").write_text(json.dumps(words), encoding="utf-8")


def test_a_missing_meta_names_the_types_and_takes_one(tmp_path: Path) -> None:
    out = copied(tmp_path)
    (out / "meta.json").unlink()
    with pytest.raises(CheckpointError, match=r"no meta.json says which llama_type") as caught:
        base.open_release(out)
    sentence = caught.value.sentence()
    assert (
        all(name in sentence for name in sphinx_recipe.TYPES) and "--word llama_type=" in sentence
    )
    for words in (Parts(words={"llama_type": "llama_ens5"}),):
        assert (
            base.open_release(out, words).recipe.modalities["image"].steps[-1].kind == "quadrants"
        )
    write_meta(out, {"llama_type": "llama_ens55"})
    with pytest.raises(CheckpointError, match=r"unknown llama_type 'llama_ens55'. Did you mean"):
        base.open_release(out)
    write_meta(out, {"name": "x"})
    with pytest.raises(CheckpointError, match=r"the meta.json does not say which llama_type"):
        base.open_release(out)


@pytest.mark.parametrize(
    ("name", "part", "message"),
    [
        ("config.json", "config", "neither a config.json nor a params.json"),
        ("tokenizer.model", "tokenizer", "there is no tokenizer.model"),
    ],
)
def test_a_missing_file_is_named_and_may_lie_elsewhere(
    name: str, part: str, message: str, tmp_path: Path
) -> None:
    out = copied(tmp_path)
    (out / name).rename(tmp_path / f"other {name}")
    with pytest.raises(CheckpointError, match=message) as caught:
        base.open_release(out)
    assert f"--part {part}=FILE" in caught.value.sentence()
    found = base.open_release(out, Parts({part: tmp_path / f"other {name}"}))
    assert found.recipe.language.config["hidden_size"] == 64
    with pytest.raises(CheckpointError, match=r"does not exist|no such tokenizer"):
        base.open_release(out, Parts({part: tmp_path / "nowhere"}))


def test_metas_params_are_a_configuration(tmp_path: Path) -> None:
    out = copied(tmp_path)
    full = json.loads((out / "config.json").read_text(encoding="utf-8"))
    (out / "config.json").unlink()
    six = {word: full[word] for word in ("dim", "n_layers", "n_heads", "multiple_of", "norm_eps")}
    (out / "params.json").write_text(json.dumps({**six, "vocab_size": -1}), encoding="utf-8")
    wanted = base.open_release(case_path(TWO) / "checkpoint").recipe
    assert base.open_release(out).recipe.language == wanted.language


def test_shards_that_are_missing_or_of_two_ways_of_cutting(tmp_path: Path) -> None:
    out = copied(tmp_path)
    second = out / "consolidated.01-of-02.model.pth"
    second.rename(tmp_path / "kept")
    with pytest.raises(
        CheckpointError,
        match=r"1 of 2 shards are there: consolidated.01-of-02.model.pth is missing",
    ):
        base.recognise(out)
    (tmp_path / "kept").rename(second)
    shutil.copyfile(second, out / "consolidated.00-of-01.model.pth")
    with pytest.raises(CheckpointError, match="checkpoints of 1 and 2 shards side by side"):
        base.recognise(out)


def test_shards_of_different_models_are_refused(tmp_path: Path) -> None:
    out = copied(tmp_path)
    second = out / "consolidated.01-of-02.model.pth"
    kept = torch.load(second, weights_only=True)
    # Another model of the same size: its weights are others.
    torch.save({"model": {k: t.flip(0) if t.ndim else t for k, t in kept["model"].items()}}, second)
    with pytest.raises(CheckpointError, match="belong to different models: weights that each") as c:
        base.open_release(out)
    assert str(out) in c.value.sentence() and "replicas=first" in c.value.sentence()
    assert base.open_release(out, Parts(words={"replicas": "first"})).notes
    # Another kind of model: its keys are others.
    torch.save({"model": {**kept["model"], "llma.start_vp": torch.zeros(1, 1, 64)}}, second)
    with pytest.raises(CheckpointError, match=r"1 keys are in one of .* only: llma.start_vp"):
        base.open_release(out)
    # Another size.
    wider = {
        k: torch.cat([t, t]) if k.endswith("w1.weight") else t for k, t in kept["model"].items()
    }
    torch.save({"model": wider}, second)
    with pytest.raises(CheckpointError, match=r"w1.weight is \[88, 64\] in .* and \[176, 64\] in"):
        base.open_release(out)


def test_replicas_that_drifted_a_little_are_noted(tmp_path: Path) -> None:
    out = copied(tmp_path)
    second = out / "consolidated.01-of-02.model.pth"
    kept = torch.load(second, weights_only=True)["model"]
    kept["llma.norm.weight"] = kept["llma.norm.weight"] * 1.01
    torch.save({"model": kept}, second)
    release = base.open_release(out)
    assert "the first one's are taken" in release.notes[0]
    tensors, _ = reading.native_tensors(release)
    first = torch.load(out / "consolidated.00-of-02.model.pth", weights_only=True)["model"]
    assert torch.equal(tensors["language.model.norm.weight"], first["llma.norm.weight"])


@pytest.mark.parametrize("nested", [True, False])
def test_a_later_folder_is_laid_over_an_earlier_one(nested: bool, tmp_path: Path) -> None:
    out = copied(tmp_path)
    over = tmp_path / "over"
    over.mkdir()
    change = {"llma.norm.weight": torch.full((64,), 2.0), "llma.start_img": torch.ones(1, 1, 64)}
    name = "consolidated.00-of-01.model.pth"
    torch.save({"model": change} if nested else change, over / name)
    tensors, _ = reading.native_tensors(base.open_release(out, Parts(words={"over": [over]})))
    assert torch.equal(tensors["language.model.norm.weight"], torch.full((64,), 2.0))
    assert torch.equal(tensors["image.frame.start"], torch.ones(64))
    plain, _ = reading.native_tensors(base.open_release(out))
    (over / name).rename(over / "consolidated.00-of-01.model-diff.pth")
    summed, _ = reading.native_tensors(base.open_release(out, Parts({"over": over})))
    assert torch.equal(
        summed["language.model.norm.weight"], plain["language.model.norm.weight"].float() + 2.0
    )
    assert torch.equal(
        summed["language.model.embed_tokens.weight"], plain["language.model.embed_tokens.weight"]
    )
    with pytest.raises(CheckpointError, match="a difference to other weights, not the weights"):
        base.open_release(over, Parts(words={"llama_type": "llama_ens5"}))


def test_metas_own_llama_below_and_the_rest_above(tmp_path: Path) -> None:
    """Meta's files have no prefix; a folder that holds only what SPHINX added is laid over them."""
    out = copied(tmp_path)
    meta = tmp_path / "llama"
    meta.mkdir()
    whole, _ = reading.native_tensors(base.open_release(case_path(TWO) / "checkpoint"))
    wanted = {name: tensor.clone() for name, tensor in whole.items()}
    for i in range(2):
        path = out / f"consolidated.{i:02d}-of-02.model.pth"
        stored = torch.load(path, weights_only=True)["model"]
        llama = ("llma.layers.", "llma.tok_", "llma.norm.", "llma.output.")
        own = {k.removeprefix("llma."): t for k, t in stored.items() if k.startswith(llama)}
        torch.save({**own, "rope.freqs": torch.zeros(8)}, meta / f"consolidated.{i:02d}.pth")
        rest = {k: t for k, t in stored.items() if not k.startswith(llama)}
        torch.save({"model": rest}, path)
    words = {"over": [out], **json.loads((out / "parts.json").read_text(encoding="utf-8"))["words"]}
    found, report = reading.native_tensors(base.open_release(meta, Parts(words=words)))
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())
    assert "shards: llma.rope.freqs" in report.unused
    with pytest.raises(CheckpointError, match=r"no meta.json says which llama_type"):
        base.open_release(meta)


def test_heads_that_no_shape_tells_must_be_said(tmp_path: Path) -> None:
    out = copied(tmp_path)
    (out / "parts.json").unlink()
    with pytest.raises(CheckpointError, match="--word clip_heads=N"):
        base.open_release(out)
    words = {**base_words(case_path(TWO) / "checkpoint"), "clip_heads": 5}
    with pytest.raises(CheckpointError, match="clip_heads is 5, which does not divide"):
        base.open_release(out, Parts(words=words))


def test_words_nobody_knows_and_a_configuration_of_another_model(tmp_path: Path) -> None:
    out = copied(tmp_path)
    with pytest.raises(
        CheckpointError, match=r"knows no part 'tokeniser'. Did you mean 'tokenizer'"
    ):
        base.open_release(out, Parts({"tokeniser": "x"}))
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    (out / "config.json").write_text(json.dumps({**config, "multiple_of": 64}), encoding="utf-8")
    with pytest.raises(
        CheckpointError, match=r"mlp.gate_proj.weight \[176, 64\] instead of \[192,"
    ):
        reading.load(base.open_release(out))
    del config["n_heads"]
    (out / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(CheckpointError, match="the configuration lacks n_heads"):
        base.open_release(out)


def test_clip_has_a_switch_for_its_activation(tmp_path: Path) -> None:
    out = copied(tmp_path)

    def activation(parts: Parts | None = None) -> Any:
        recipe = base.open_release(out, parts).recipe
        return recipe.modalities["image"].branches[1].encoders[0].args.get("act_layer", "gelu")  # type: ignore[attr-defined]

    assert activation() == "gelu"
    assert activation(Parts(words={"clip_activation": "quick_gelu"})) == "quick_gelu"
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    config["load_pretrained_visual_encoder"] = True
    (out / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert activation() == "quick_gelu"
    assert activation(Parts(words={"clip_activation": "gelu"})) == "gelu"
    with pytest.raises(CheckpointError, match="unknown clip_activation 'relu'"):
        activation(Parts(words={"clip_activation": "relu"}))


# --- configurations that the public cases do not have ---


def test_grouped_heads_rotary_words_and_widths_there_and_back(tmp_path: Path) -> None:
    """GQA, another theta, stretched positions and a multiplier: read, written, read again."""
    source = base.open_release(case_path(TWO) / "checkpoint")
    words = source.recipe.language.config
    language = {
        **words,
        "num_key_value_heads": 2,
        "intermediate_size": 104,
        "rope_theta": 500000.0,
        "rope_scaling": {"rope_type": "linear", "factor": 4.0},
    }
    recipe = source.recipe.model_copy(
        update={"language": source.recipe.language.model_copy(update={"config": language})}
    )
    torch.manual_seed(0)
    model = MultimodalLM.from_recipe(recipe).eval()
    processor = Processor.from_recipe(recipe, source.folder)
    files = SphinxFamily().write(model, processor, tmp_path, shards=2)
    args = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert (args["n_kv_heads"], args["rope_theta"], args["rope_scaling"]) == (2, 500000, 0.25)
    stored = torch.load(files[0], weights_only=True)["model"]
    assert stored["llma.layers.0.attention.wk.weight"].shape == (16, 64)
    assert stored["llma.layers.0.attention.wk.weight"].dtype == torch.float32  # random, not bf16's
    again, processor, _ = reading.load(base.open_release(tmp_path))
    expected = certificate.probe(model, processor)
    found = certificate.answers(again, processor, expected["picture"].numpy())
    assert torch.equal(found["logits"], expected["logits"])
    with pytest.raises(CheckpointError, match=r"4 heads .2 of keys. cannot be shared by 4 shards"):
        sphinx_write.recut(tmp_path, tmp_path / "four", 4)


@pytest.mark.parametrize(
    ("dim", "multiple", "multiplier", "width"),
    [(5120, 256, None, 13824), (8192, 4096, 1.3, 28672), (64, 16, None, 176), (48, 32, None, 128)],
)
def test_the_width_of_the_gated_network(
    dim: int, multiple: int, multiplier: float | None, width: int
) -> None:
    assert sphinx_recipe.hidden(dim, multiple, multiplier) == width
    found = sphinx_recipe.rounding(dim, width)
    assert sphinx_recipe.hidden(dim, *found) == width


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_weights_are_stored_as_small_as_loses_nothing(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    tensors = [torch.randn(50).to(dtype).float(), torch.ones(3)]
    assert writing.narrowest(tensors) == dtype


def test_a_model_of_another_family_is_no_sphinx() -> None:
    nano = recipes.load("nano")
    with pytest.raises(CheckpointError, match="cannot be expressed as SPHINX"):
        SphinxFamily().expressed(nano)
