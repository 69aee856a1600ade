"""The slow tokenizer's rules against xGen-MM's own ids, texts and places."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from omnimix.errors import RecipeError
from omnimix.language.slow_llama import SlowLlama
from omnimix.language.tokenizer import Tokenizer
from tests.cases import golden

CASES = ["anyres_single", "interleave_multi"]
MARKS = ("<image>", "<image placeholder>", "<|endofchunk|>")


def loaded(case: str) -> tuple[Tokenizer, dict[str, Any], Path]:
    folder, facts, _ = golden(f"xgen_mm/{case}")
    place = folder / "checkpoint/hf_hub"
    config = json.loads((place / "tokenizer_config.json").read_text(encoding="utf-8"))
    added = [
        {"content": token["content"], "id": int(i), "rstrip": token["rstrip"]}
        for i, token in config["added_tokens_decoder"].items()
    ]
    first = facts["config"]["tokenizer"]["image"]
    added += [{"content": mark, "id": first + k} for k, mark in enumerate(MARKS)]
    spec = SlowLlama(
        path="tokenizer.model",
        added_tokens=tuple(added),  # type: ignore[arg-type]
        eos_token="<|endoftext|>",
        pad_token="<pad>",
        extra_special_tokens=MARKS,
    )
    return spec.load([place]), facts, place


@pytest.mark.parametrize("case", CASES)
def test_ids_are_the_published_ones(case: str) -> None:
    tokenizer, facts, _ = loaded(case)
    for wanted in facts["tokenizer"]:
        ids, starts = tokenizer.encode(wanted["text"])
        assert ids == wanted["slow_ids"], wanted["text"]
        assert len(starts) == len(ids)
        assert starts == sorted(starts)
        assert all(0 <= start < len(wanted["text"]) for start in starts)
    assert tokenizer.size == facts["config"]["tokenizer"]["logits_width"]


@pytest.mark.parametrize("case", CASES)
def test_decoded_text_is_the_published_one(case: str) -> None:
    tokenizer, facts, _ = loaded(case)
    for wanted in facts["generate"].values():
        (ids,) = wanted["generated_ids"]
        assert tokenizer.decode(ids) == wanted["text_skip_special"][0]
        assert tokenizer.decode(ids, specials=True) == wanted["text_raw"][0]


def test_an_item_inside_the_text_acts_like_its_mark() -> None:
    tokenizer, facts, _ = loaded("anyres_single")
    mark = facts["config"]["tokenizer"]["image"]
    for text in ("Look at <image> and <image>. What?", "<image>\nHow many?<|end|>\n<|user|>\nx"):
        parts = text.split("<image>")
        ids = tokenizer.encode(parts[0])[0]
        for part in parts[1:]:
            ids += [mark, *tokenizer.encode(part, follows=True)[0]]
        assert ids == tokenizer.encode(text)[0]


def test_places_point_at_the_characters() -> None:
    tokenizer, _, _ = loaded("anyres_single")
    text = "<|user|>\n Two é 🙂 cups<|end|>\n<|assistant|>\nTwo"
    ids, starts = tokenizer.encode(text)
    (end,) = tokenizer.encode("<|end|>", follows=True)[0]
    assert starts[ids.index(end)] == text.index("<|end|>")
    assert text[starts[2] :].startswith("Two")  # after the lone space and the mark that swallows
    assert text[starts[-1]] in "Two"


def test_it_saves_and_pickles(tmp_path: Path) -> None:
    tokenizer, facts, _ = loaded("anyres_single")
    text = facts["tokenizer"][0]["text"]
    assert tokenizer.save(tmp_path) == "tokenizer.model"
    again = pickle.loads(pickle.dumps(tokenizer))
    assert again.encode(text) == tokenizer.encode(text)
    plain = SlowLlama(path="tokenizer.model").load([tmp_path])
    assert plain.encode("Hello")[0] == tokenizer.encode("Hello")[0]


def test_a_token_that_is_not_there_is_named(tmp_path: Path) -> None:
    _, _, place = loaded("anyres_single")
    with pytest.raises(RecipeError, match="no token '<mask>'"):
        SlowLlama(path="tokenizer.model", pad_token="<mask>").load([place])
    (tmp_path / "tokenizer.model").write_text("nothing")
    with pytest.raises(RecipeError, match="not a SentencePiece model"):
        SlowLlama(path="tokenizer.model").load([tmp_path])


@pytest.mark.parametrize("case", CASES)
def test_a_typed_role_is_text(case: str) -> None:
    tokenizer, _, place = loaded(case)
    config = json.loads((place / "tokenizer_config.json").read_text(encoding="utf-8"))
    named = {token["content"]: int(i) for i, token in config["added_tokens_decoder"].items()}
    end, user = named["<|end|>"], named["<|user|>"]
    text = "<|user|>\nWhat is <|end|>?<|end|>\n<image>"
    typed = (text.index("What"), text.index("?") + 1)
    ids, starts = tokenizer.encode(text, typed=[typed])
    plain, _ = tokenizer.encode(text)
    assert (plain.count(end), ids.count(end), ids.count(user)) == (2, 1, 1)
    assert ids.index(end) == starts.index(text.rindex("<|end|>"))
    follows, _ = tokenizer.encode(text, follows=True, typed=[typed])
    assert follows.count(end) == 1
