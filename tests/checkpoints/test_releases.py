"""Released models: the list is the published one, and an id becomes local files."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from math import prod
from pathlib import Path
from typing import Any

import pytest

import omnimix
from omnimix.checkpoints import releases
from omnimix.checkpoints.releases import Released, fetch, find
from omnimix.errors import CheckpointError, RegistryError
from omnimix.generate import folder
from omnimix.registry import CHECKPOINTS
from tests.cases import case_path


def test_prismatics_list_is_the_published_one() -> None:
    published = json.loads(case_path("prismatic/registry.json").read_text())
    ours = releases.releases("prismatic")
    assert [r.id for r in ours] == [row["registry_key"] for row in published]
    for release, row in zip(ours, published, strict=True):
        assert list(release.names) == row["names"]
        assert release.title == row["description"]["name"]
        assert release.folder == row["model_id"]
        assert (release.connector, release.resize) == (
            row["arch_specifier"],
            row["image_resize_strategy"],
        )
        assert (release.data, release.epochs) == (row["dataset_id"], row["train_epochs"])
        assert release.procedure == row["description"]["optimization_procedure"]
        if release.id != "prism-siglip+13b":  # the training configuration names CLIP
            assert release.encoder.size == row["image_size"]
        assert release.language.title == row["description"]["language_model"]
        assert bool(release.note) == bool(row["known_inconsistency"])


def test_training_configurations_of_prismatic_name_the_same_models() -> None:
    published = json.loads(case_path("prismatic/model_configs.json").read_text())["models"]
    for release in releases.releases("prismatic"):
        config = published[release.folder]
        assert release.connector == config["arch_specifier"]
        assert release.resize == config["image_resize_strategy"]
        assert dict(release.parts)["llm"] == find(release.id).language.hub
        single = config["arch_specifier"].startswith("no-align")
        assert str(release.procedure).startswith("single-stage") == single, release.id


def test_every_published_name_finds_its_model() -> None:
    tables = json.loads(case_path("prismatic/registry_tables.json").read_text())
    for name, id in tables["alias_to_model_id"].items():
        assert find(name).folder == id


def test_parts_and_hubs_are_the_published_ones() -> None:
    tables = json.loads(case_path("prismatic/registry_tables.json").read_text())
    published = json.loads(case_path("prismatic/registry.json").read_text())
    for row in published:
        parts = dict(find(row["registry_key"]).parts)
        assert parts.pop("llm") == tables["llm_backbones"][row["llm_backbone_id"]]["hub_id"]
        if row["registry_key"] == "prism-siglip+13b":  # its training configuration names CLIP
            assert parts == {"vision": "timm/vit_so400m_patch14_siglip_384"}
            continue
        wanted = tables["vision_backbones"][row["vision_backbone_id"]]["timm_ids"]
        assert parts == {n.replace("featurizer", "vision"): f"timm/{t}" for n, t in wanted.items()}


def manifests() -> list[tuple[str, str]]:
    """Families and files of the key lists."""
    found = [
        *(("prismatic", f"{id}.json.gz") for id in PRISMATIC),
        ("xgen_mm", "xgen-mm-phi3-mini-instruct-interleave-r-v1.5.hf_hub_fp32.json.gz"),
        *(("multi_token", f"sshh12--{r.id}.json.gz") for r in releases.releases("multi_token")),
    ]
    return found


PRISMATIC = (
    "dinoclip-336px-letterbox+7b",
    "dinov2-224px+7b",
    "full-ft-one-stage+7b",
    "in1k-224px+7b",
    "mistral-v0.1+7b",
    "phi-2+3b",
    "prism-clip+7b",
    "prism-dinosiglip+13b",
    "prism-dinosiglip+7b",
    "prism-siglip+7b",
    "reproduction-llava-v15+13b",
)


@pytest.mark.parametrize(("family", "file"), manifests(), ids=lambda value: str(value)[:40])
def test_sizes_are_those_of_the_files(family: str, file: str) -> None:
    manifest = json.loads(gzip.decompress(case_path(f"{family}/manifest/{file}").read_bytes()))
    id = file.removesuffix(".json.gz").removesuffix(".hf_hub_fp32").removeprefix("sshh12--")
    release = find(id)
    width = {"float32": 4, "bfloat16": 2, "float16": 2}
    tensors: list[tuple[int, int]] = []
    for name, keys in manifest["files"].items():
        assert family == "xgen_mm" or name.endswith(release.files) or "adapter_model" in name
        if name.startswith("adapter_model") and not any("adapter_m" in f for f in release.files):
            continue  # missing on the hub
        for value in keys.values():
            tensors.append((prod(value[0]), width[value[1]]))
    assert release.parameters == sum(count for count, _ in tensors)
    assert release.bytes == sum(count * size for count, size in tensors)


@pytest.mark.parametrize("id", ["SPHINX", "SPHINX-1k", "SPHINX-v2-1k", "SPHINX-V-13b"])
def test_sizes_of_sharded_releases(id: str) -> None:
    """Tensors that are not split lie in every shard and count once."""
    release = find(id)
    path = case_path(f"{release.family}/manifest/{id}.json.gz")
    manifest = json.loads(gzip.decompress(path.read_bytes()))
    shards = list(manifest["files"].values())
    assert list(manifest["files"]) == list(release.files[:2])
    counts = [{key: prod(value[0]) for key, value in shard.items()} for shard in shards]
    split = manifest["parallel_dim"]
    assert release.bytes == 2 * sum(sum(shard.values()) for shard in counts)
    assert release.parameters == sum(counts[0].values()) + sum(
        size for key, size in counts[1].items() if key in split
    )


def test_every_family_is_listed() -> None:
    families = {release.family for release in releases.releases()}
    assert families == {"prismatic", "xgen_mm", "sphinx", "sphinx_v", "multi_token"}
    assert set(CHECKPOINTS) <= families
    assert len(omnimix.available()) == len(set(omnimix.available())) >= 68
    assert dict(omnimix.available_names())["one-stage+7b"][0] == "One-Stage 7B"


def test_a_description_says_what_a_model_is_made_of() -> None:
    found = omnimix.describe("Prism-DINOSigLIP 7B")
    wanted = {
        "id": "prism-dinosiglip+7b",
        "encoder": "DINOv2 ViT-L/14 + SigLIP ViT-SO/14 @ 384px",
        "language": "Llama-2 7B",
        "bytes": 27241302016,
        "licence": "MIT",
        "language_licence": "Llama 2 Community",
        "arxiv": "2402.07865",
    }
    assert wanted.items() <= found.items()
    json.dumps(found)


def test_the_list_is_filtered() -> None:
    assert {r.id for r in releases.releases("prismatic", "phi-2")} == {"phi-2+3b"}
    assert [r.id for r in releases.releases(grep="2408.08872")] == [
        r.id for r in releases.releases("xgen_mm")
    ]
    assert releases.releases("sphinx", "no such text") == []
    with pytest.raises(RegistryError, match="Did you mean 'prismatic'"):
        releases.releases("prismatik")


def test_unknown_ids_have_a_nearest_one() -> None:
    with pytest.raises(RegistryError, match=r"Did you mean 'prism-dinosiglip\+7b'"):
        omnimix.describe("prism-dinosiglip-7b")
    with pytest.raises(RegistryError, match=r"Did you mean 'phi-2\+3b'"):
        omnimix.load("phi-2-3b")


def test_the_13b_that_is_a_7b() -> None:
    """golden/specs/prismatic.md 11.7."""
    odd, other = find("prism-siglip-controlled+13b"), find("prism-siglip-controlled+7b")
    assert (odd.folder, odd.bytes) == (other.folder, other.bytes)
    assert odd.note and "7B" in odd.note


def fill(place: Path, release: Released) -> Path:
    """The release's files with a letter in each."""
    for name in release.files:
        file = place / name.replace("*", "model")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("x")
    return place


def layouts(root: Path, release: Released) -> dict[str, Path]:
    """Where a release may lie below a folder of models."""
    organisation, name = release.repo.split("/")
    snapshot = root / f"models--{organisation}--{name}" / "snapshots" / "0123"
    return {
        "repository": root / organisation / name / release.folder,
        "name": root / name / release.folder,
        "cache": snapshot / release.folder,
        "folder": root / Path(release.folder).name,
    }


IDS = ["prism-dinosiglip+7b", "SPHINX-1k", "xgen-mm-phi3-mini-instruct-dpo-r-v1.5"]


@pytest.mark.parametrize("layout", ["repository", "name", "cache", "folder"])
@pytest.mark.parametrize("id", IDS)
def test_a_folder_of_models_in_the_hubs_layout(id: str, layout: str, tmp_path: Path) -> None:
    release = find(id)
    place = layouts(tmp_path, release)[layout]
    if layout == "folder" and not release.folder:
        return
    fill(place, release)
    assert fetch(release, tmp_path).folder == place


def test_the_cache_takes_the_snapshot_of_main(tmp_path: Path) -> None:
    release = find(IDS[0])
    cached = tmp_path / "models--TRI-ML--prismatic-vlms"
    for snapshot in ("aaaa", "bbbb", "cccc"):
        fill(cached / "snapshots" / snapshot / release.folder, release)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("bbbb")
    assert fetch(release, tmp_path).folder.parent.name == "bbbb"


def test_parts_in_the_folder_are_named(tmp_path: Path) -> None:
    release = find(IDS[0])
    fill(tmp_path / release.id, release)
    for place in (
        "meta-llama/Llama-2-7b-hf",
        "models--timm--vit_so400m_patch14_siglip_384/snapshots/1",
    ):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "config.json").write_text("{}")
    parts = fetch(release, tmp_path).parts
    assert {part: place.name for part, place in parts.items()} == {
        "llm": "Llama-2-7b-hf",
        "siglip": "1",
    }


def test_the_environment_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = find(IDS[0])
    fill(tmp_path / release.id, release)
    monkeypatch.setenv(releases.ROOT, str(tmp_path))
    assert fetch(release).folder == tmp_path / release.id
    monkeypatch.setenv(releases.ROOT, str(tmp_path / "no"))
    with pytest.raises(CheckpointError, match="folder of models does not exist"):
        fetch(release)


def hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """huggingface_hub without a network and with this cache."""
    monkeypatch.delenv(releases.ROOT, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(
        "huggingface_hub._snapshot_download.HF_HUB_CACHE", str(cache), raising=False
    )


def cached(cache: Path, release: Released) -> Path:
    """A snapshot of `main` in the hub's cache."""
    organisation, name = release.repo.split("/")
    repo = cache / f"models--{organisation}--{name}"
    commit = "0123456789abcdef0123456789abcdef01234567"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(commit)
    return repo / "snapshots" / commit


def test_offline_the_hubs_cache_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub(tmp_path, monkeypatch)
    release = find(IDS[0])
    place = fill(cached(tmp_path, release) / release.folder, release)
    assert fetch(release).folder == place


def test_offline_without_a_cache_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub(tmp_path, monkeypatch)
    with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE and its cache has no such") as error:
        fetch(find(IDS[0]))
    sentence = error.value.sentence()
    assert (
        "TRI-ML/prismatic-vlms" in sentence and "27 GB" in sentence and "OMNIMIX_MODELS" in sentence
    )


def test_half_a_download_is_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's library hands out a snapshot in which files are missing."""
    hub(tmp_path, monkeypatch)
    release = find(IDS[0])
    place = cached(tmp_path, release) / release.folder
    place.mkdir(parents=True)
    (place / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"1 of 2 files .*latest-checkpoint\.pt is not there"):
        fetch(release)


def test_what_is_asked_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def download(repo: str, **words: Any) -> str:
        asked.update(repo=repo, **words)
        fill(tmp_path / release.folder, release)
        return str(tmp_path)

    release = find("SPHINX-1k")
    monkeypatch.delenv(releases.ROOT, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert fetch(release).folder == tmp_path / "finetune/mm/SPHINX/SPHINX-1k"
    assert asked["repo"] == "Alpha-VLLM/LLaMA2-Accessory" and not asked["local_files_only"]
    assert asked["allow_patterns"][0] == f"{release.folder}/consolidated.00-of-02.model.pth"


def test_load_goes_through_the_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A family with a reader gets its files; of another one nothing is fetched."""
    readers = {"prismatic"}
    monkeypatch.setattr(folder, "CHECKPOINTS", readers)
    monkeypatch.setenv(releases.ROOT, str(tmp_path))
    release = find(IDS[0])
    fill(tmp_path / release.id, release)
    assert folder.locate("Prism-DINOSigLIP 7B").folder == tmp_path / release.id
    with pytest.raises(
        CheckpointError, match="SPHINX-1k: checkpoints of SPHINX cannot be opened yet"
    ):
        folder.locate("SPHINX-1k")


def test_a_folder_goes_before_an_id(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny_folder.parent)
    Path("phi-2+3b").symlink_to(tiny_folder)
    try:
        assert folder.locate("phi-2+3b").folder == Path("phi-2+3b")
    finally:
        Path("phi-2+3b").unlink()


def test_the_list_needs_no_torch() -> None:
    code = (
        "import sys; from omnimix.checkpoints import releases; "
        "assert releases.available(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("written", "release"),
    [
        ("Alpha-VLLM/SPHINX", "SPHINX"),
        ("Alpha-VLLM/LLaMA2-Accessory/finetune/mm/SPHINX/SPHINX-v2-1k", "SPHINX-v2-1k"),
        ("Afeng-x/SPHINX-V-Model", "SPHINX-V-13b"),
        ("Afeng-x/SPHINX-V-Model/sphinx-v/stage1", "SPHINX-V-13b-stage1"),
    ],
)
def test_ids_as_readmes_write_them(written: str, release: str) -> None:
    assert releases.find(written).id == release
