"""Tokenizers behind one face: text to ids with places, and back."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from omnimix.compose import recipe as recipes
from omnimix.errors import RecipeError
from omnimix.language.tokenizer import FastTokenizer, SentencePieceTokenizer, Tokenizer
from tests.cases import case_path, golden

WORDS = {
    "path": "nano.tokenizer.json",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "pad_token": "<pad>",
}
QUICK = settings(max_examples=80, deadline=None, derandomize=True)
TEXT = st.text(max_size=40)
SPHINX = "sphinx/ens_1shard/checkpoint"


@pytest.fixture(scope="module")
def nano() -> Tokenizer:
    return FastTokenizer(**WORDS).load([recipes.FOLDER])


@pytest.fixture(scope="module")
def pieces() -> Tokenizer:
    return SentencePieceTokenizer(path="tokenizer.model").load([case_path(SPHINX)])


@QUICK
@given(text=TEXT)
def test_any_text_comes_back(text: str, nano: Tokenizer) -> None:
    ids, _ = nano.encode(text)
    assert nano.decode(ids) == text
    assert all(0 <= i < nano.size for i in ids)


@QUICK
@given(text=TEXT)
def test_places_rise_from_the_first_character(text: str, nano: Tokenizer) -> None:
    ids, starts = nano.encode(text)
    assert len(starts) == len(ids)
    assert starts == sorted(starts)
    assert starts[:1] == [0] * bool(text)
    assert all(start < len(text) for start in starts)


def test_places_cut_the_text_into_its_tokens(nano: Tokenizer) -> None:
    text = "What is in the box? A blue square."
    ids, starts = nano.encode(text)
    cut = [text[a:b] for a, b in zip(starts, [*starts[1:], len(text)], strict=True)]
    assert [nano.decode([i]) for i in ids] == cut


def test_specials_are_left_out_unless_asked_for(nano: Tokenizer) -> None:
    assert (nano.pad, nano.bos, nano.eos) == (0, 1, 2)
    assert {0, 1, 2} <= nano.specials
    ids = [1, *nano.encode("A cup")[0], 2, 0]
    assert nano.decode(ids) == "A cup"
    assert nano.decode(ids, specials=True) == "<s>A cup</s><pad>"


def test_saved_and_pickled_tokenizers_are_the_same(nano: Tokenizer, tmp_path: Path) -> None:
    text = "Zwölf große 猫 🐈"
    name = nano.save(tmp_path)
    again = FastTokenizer(**{**WORDS, "path": name}).load([tmp_path])
    for other in (again, pickle.loads(pickle.dumps(nano))):
        assert other.encode(text) == nano.encode(text)
        assert (other.size, other.bos, other.specials) == (nano.size, nano.bos, nano.specials)


def test_what_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"'none\.json' was not found \(looked in"):
        FastTokenizer(path="none.json").load([tmp_path])
    with pytest.raises(RecipeError, match="no token '<bos>'"):
        FastTokenizer(path="nano.tokenizer.json", bos_token="<bos>").load([recipes.FOLDER])
    (tmp_path / "broken").write_text("{")
    with pytest.raises(RecipeError, match="not a tokenizer file"):
        FastTokenizer(path="broken").load([tmp_path])
    with pytest.raises(RecipeError, match="not a SentencePiece model"):
        SentencePieceTokenizer(path="broken").load([tmp_path])


def test_sentencepiece_ids_are_the_published_ones(pieces: Tokenizer) -> None:
    _, facts, _ = golden("sphinx/ens_1shard")
    conversation = facts["results"]["conv"]
    ids, starts = pieces.encode(conversation["text"])
    wanted = conversation["tokens"]
    assert [pieces.bos, *ids] == wanted
    assert starts == sorted(starts) and starts[0] == 0
    assert pieces.decode(ids) == conversation["text"]


@pytest.mark.parametrize("family", ["llama2", "vicuna"])
def test_sentencepiece_knows_added_tokens(family: str) -> None:
    _, facts, _ = golden("prismatic/text_and_data")
    wanted = facts["tokenizers"][family]
    words = SentencePieceTokenizer(
        path="tokenizer.model", extra_special_tokens=("<PAD>",), pad_token="<PAD>"
    )
    found = words.load([case_path(f"prismatic/text_and_data/tokenizers/{family}")])
    assert (found.size, found.pad) == (wanted["length_with_pad"], wanted["pad_token_id"])
    assert (found.bos, found.eos) == (wanted["bos_token_id"], wanted["eos_token_id"])
    ids, starts = found.encode("a cup<PAD> of tea")
    assert ids.count(found.pad) == 1
    assert starts[ids.index(found.pad)] == 5
    assert found.decode([wanted["bos_token_id"], *ids]).split() == ["a", "cup", "of", "tea"]
    assert "<PAD>" in found.decode(ids, specials=True)


@QUICK
@given(text=st.text(alphabet="abc xyz\n猫", max_size=30))
def test_sentencepiece_places_are_those_of_characters(text: str, pieces: Tokenizer) -> None:
    ids, starts = pieces.encode(text)
    assert len(ids) == len(starts)
    assert all(0 <= start <= len(text) for start in starts)
    assert starts == sorted(starts)


def test_sentencepiece_saves_and_pickles(pieces: Tokenizer, tmp_path: Path) -> None:
    name = pieces.save(tmp_path)
    again = SentencePieceTokenizer(path=name).load([tmp_path])
    for other in (again, pickle.loads(pickle.dumps(pieces))):
        assert other.encode("A cup of tea") == pieces.encode("A cup of tea")


def test_fast_ids_are_the_published_ones() -> None:
    folder, facts, _ = golden("prismatic/text_and_data")
    found = FastTokenizer(path="phi-2").load([folder / "tokenizers"])
    config = json.loads((folder / "tokenizers/phi-2/tokenizer_config.json").read_text())
    assert config["eos_token"] == "<|endoftext|>"
    (eos,), _ = found.encode("<|endoftext|>")
    assert eos == facts["tokenizers"]["phi-2"]["eos_token_id"]
    assert found.decode(found.encode("Two cups.")[0]) == "Two cups."


SOUP = st.lists(
    st.sampled_from(["</s>", "<s>", "<pad>", "<", "/s>", "a", " ", "cup", "猫"]), max_size=8
)
"""Text in which names of special tokens stand whole, broken and side by side."""


@QUICK
@given(parts=SOUP)
def test_what_a_person_types_is_never_a_special_token(parts: list[str], nano: Tokenizer) -> None:
    text = "".join(parts)
    ids, starts = nano.encode(text, typed=[(0, len(text))])
    assert not nano.specials.intersection(ids)
    assert nano.decode(ids) == text
    assert starts == sorted(starts) and all(0 <= start < len(text) for start in starts)


@QUICK
@given(before=SOUP, typed=SOUP, after=SOUP)
def test_what_a_style_writes_stays_special(
    before: list[str], typed: list[str], after: list[str], nano: Tokenizer
) -> None:
    """Only names that lie wholly outside the typed stretch are special tokens, in their order."""
    head, middle, tail = ("".join(parts) for parts in (before, typed, after))
    span = (len(head), len(head) + len(middle))
    ids, starts = nano.encode(head + middle + tail, typed=[span])
    found = [i for i in ids if i in nano.specials]
    if middle:
        wanted = [i for side in (head, tail) for i in nano.encode(side)[0] if i in nano.specials]
        assert found == wanted
    assert nano.decode(ids, specials=True) == head + middle + tail
    assert starts == sorted(starts)


def test_typed_names_of_added_sentencepiece_tokens_stay_text() -> None:
    words = SentencePieceTokenizer(
        path="tokenizer.model", extra_special_tokens=("<PAD>",), pad_token="<PAD>"
    )
    found = words.load([case_path("prismatic/text_and_data/tokenizers/llama2")])
    text = "a<PAD> cup</s> of<PAD>tea"
    ids, _ = found.encode(text, typed=[(0, text.index(" of"))])
    assert ids.count(found.pad) == 1 and found.eos not in ids
    assert found.decode(ids, specials=True) == text


def test_a_token_that_swallows_white_space_still_does(tmp_path: Path) -> None:
    """Beside a typed name, as Phi-3's role tokens do."""
    from tokenizers import AddedToken, Tokenizer as Fast

    fast = Fast.from_file(str(recipes.FOLDER / "nano.tokenizer.json"))
    fast.add_special_tokens([AddedToken("<|end|>", rstrip=True, normalized=False)])
    fast.save(str(tmp_path / "tokenizer.json"))
    found = FastTokenizer(path="tokenizer.json").load([tmp_path])
    plain, _ = found.encode("a<|end|>\n\nb")
    ids, _ = found.encode("a<|end|>\n\nb</s>", typed=[(11, 15)])
    assert ids[: len(plain)] == plain
    assert not {0, 1, 2}.intersection(ids)


LLAMA = {"path": "tokenizer.json", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<PAD>"}


@pytest.mark.parametrize("case", ["clip_mlp_vicuna", "dinosiglip_gelu"])
def test_llama_tokenizers_are_rebuilt_as_the_reference_had_them(case: str, tmp_path: Path) -> None:
    """One case brings a tokenizer.json, the other a SentencePiece model alone."""
    folder = case_path(f"prismatic/{case}")
    made = FastTokenizer(**LLAMA, extra_special_tokens=("<PAD>",), prefix="every").load(
        [folder / "backbones/llm"]
    )
    made.save(tmp_path)
    found, wanted = (
        json.loads(path.read_text())
        for path in (tmp_path / "tokenizer.json", folder / "expected_tokenizer.json")
    )
    for part in ("added_tokens", "normalizer", "pre_tokenizer", "decoder"):
        assert found[part] == wanted[part]
    assert found["model"]["vocab"] == wanted["model"]["vocab"]
    pairs = [
        pair.split(" ") if isinstance(pair, str) else pair for pair in wanted["model"]["merges"]
    ]
    assert found["model"]["merges"] == pairs


def test_every_stretch_has_its_prefix(tmp_path: Path) -> None:
    folder = case_path("prismatic/dinosiglip_gelu/backbones/llm")
    made = FastTokenizer(**LLAMA, extra_special_tokens=("<PAD>",), prefix="every").load([folder])
    once, again = made.encode("Is it?</s>Is it?")[0], made.encode("Is it?")[0]
    assert once == [*again, made.eos, *again]
    saved = FastTokenizer(**{**LLAMA, "path": made.save(tmp_path)}).load([tmp_path])
    assert saved.encode("Is it?</s>Is it?")[0] == once and saved.pad == made.pad


def test_tidy_text(nano: Tokenizer) -> None:
    made = FastTokenizer(**WORDS, clean_up_tokenization_spaces=True).load([recipes.FOLDER])
    text = "It is , I do n't know 's ! Is it ?"
    ids = nano.encode(text)[0]
    assert made.decode(ids) == "It is, I don't know's! Is it?"
    assert nano.decode(ids) == text


def test_no_sentencepiece_model(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"no model")
    with pytest.raises(RecipeError, match="not a SentencePiece model"):
        FastTokenizer(**LLAMA).load([tmp_path])
