"""multi_token: every public golden case, and that a changed number is found."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from omnimix_golden.multi_token.case import token_index

from omnimix.compose import recipe as recipes
from omnimix.compose.recipe import Recipe
from omnimix.compose.sequence import Item
from omnimix.compose.weave import Weaver
from omnimix.convert.verifying import verify
from omnimix.data.placeholders import conversation, published
from omnimix.types import Media
from tests.cases import case_path

FOLDER = "multi_token"
CASES = ["vision_lora", "audio_document_mix", "imagebind_three_kinds"]
STAGES = {"senses", "prompt", "ids", "labels", "preprocessed", "features", "projected", "logits"}
STAGES |= {
    "inputs_embeds",
    "greedy ids",
    "text",
    "what learns",
    "loss",
    "gradients",
    "after a step",
}


@pytest.mark.parametrize("name", CASES)
def test_public_cases_agree(name: str) -> None:
    report = verify(case_path(f"{FOLDER}/{name}"))
    assert report.failed is None, report.failed
    assert {line.stage for line in report.lines()} >= STAGES
    assert report.unread == []


def copied(name: str, out: Path) -> Path:
    shutil.copytree(case_path(f"{FOLDER}/{name}"), out, copy_function=shutil.copyfile)
    for folder in (out, *out.rglob("*")):
        if folder.is_dir():
            folder.chmod(0o755)
    return out


def changed(out: Path, change: Any) -> None:
    path = out / "case.json"
    path.chmod(0o644)
    facts = json.loads(path.read_text())
    change(facts)
    path.write_text(json.dumps(facts))


def test_a_wrong_number_is_found(tmp_path: Path) -> None:
    def change(facts: Any) -> None:
        facts["requests"] = facts["requests"][:1]
        facts["requests"][0]["generated_ids"][3] += 1

    out = copied("vision_lora", tmp_path / "case")
    changed(out, change)
    report = verify(out)
    assert report.failed is not None
    assert report.failed.stage == "greedy ids"
    assert report.failed.what == "two images in one message"


# --- the tokenizer of the releases ---


def real_tokenizer() -> Path:
    """Mistral's own `tokenizer.model`: a file named by OMNIMIX_MISTRAL, or that of mistral-common."""
    named = os.environ.get("OMNIMIX_MISTRAL")
    if named:
        return Path(named)
    found = importlib.util.find_spec("mistral_common")
    if found is None or found.origin is None:
        pytest.skip("Mistral's tokenizer.model is absent: pip install --no-deps mistral-common")
    return Path(found.origin).parent / "data" / "tokenizer.model.v1"


@pytest.fixture(scope="module")
def weavers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("mistral")
    shutil.copyfile(real_tokenizer(), folder / "tokenizer.model")
    words = {"kind": "fast", "path": "tokenizer.json", "bos_token": "<s>", "eos_token": "</s>"}
    words |= {"pad_token": "<unk>", "prefix": "every"}
    base = recipes.load("multi_token").dump()
    tokenizer = None

    def weaver(modalities: list[dict[str, Any]]) -> tuple[Recipe, Weaver, dict[str, str]]:
        nonlocal tokenizer
        ours = {row["name"]: NAMES[row["name"]] for row in modalities}
        senses = {name: base["modalities"]["image"] for name in ours.values()}
        found = recipes.parse({**base, "tokenizer": words, "modalities": senses}, "test")
        assert found.tokenizer is not None
        tokenizer = tokenizer or found.tokenizer.load([folder])
        counts = {ours[row["name"]]: row["token_width"] for row in modalities}
        return found, _Counting(found, tokenizer, counts), ours

    yield weaver


NAMES = {
    "vision_clip": "image",
    "imagebind": "imagebind",
    "document_gte": "document",
    "audio_whisper": "speech",
    "audio_clap": "sound",
    "video_xclip": "video",
}


class _Counting(Weaver):
    """Items are not opened: only their places count here."""

    def prepare(self, name: str, media: Media) -> Item:
        return _blank(self.tokens_per_tile[name])


def _blank(tokens: int) -> Item:
    import torch

    return Item((torch.zeros(1, 3, 2, 2),), tokens)


def spread(runs: list[list[int]]) -> list[int]:
    return [value for value, count in runs for _ in range(count)]


def test_ids_of_the_real_tokenizer(weavers: Any) -> None:
    cases = json.loads(case_path(f"{FOLDER}/real_tokenizer_ids.json").read_text())["cases"]
    assert len(cases) == 16
    for case in cases:
        found, weave, ours = weavers(case["modalities"])
        text = str(case["messages"])
        lists = {
            published(name).key: [Media(name, "x")] * text.count(published(name).token)
            for name in ours.values()
        }
        sample = conversation(case["messages"], lists, list(ours.values()), case["name"])
        open_answer = case["messages"][-1]["role"] == "user"
        woven = weave(sample, open_answer)
        index = {k: token_index(published(n).token) for k, n in enumerate(found.modalities, 1)}
        ids = [index.get(int(o), int(i)) for i, o in zip(woven.ids, woven.owner, strict=True)]
        assert ids == spread(case["input_ids_rle"]), case["name"]
        # The begin token has a label there, which nothing is predicted from.
        assert woven.labels[1:].tolist() == spread(case["labels_rle"])[1:], case["name"]
