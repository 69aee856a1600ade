"""A recipe's tokenizer as transformers' users know it: the same ids, the same text back."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from omnimix.compose import recipe as recipes
from omnimix.errors import RecipeError
from omnimix.language.fast import fast_tokenizer
from omnimix.language.tokenizer import FastTokenizer, SentencePieceTokenizer, Tokenizer
from tests.cases import case_path
from tests.language.test_slow_llama import loaded

TEXTS = (
    "What is in the box?",
    "Two small red circles,  and\none é 🙂.",
    " a space in front",
    "A</s>B",
    "",
)

OUR_RULES = (" a space in front", "A</s>B")
"""Where a SentencePiece model differs: on leading space, and names of its control tokens are text to it."""


def tokenizers() -> dict[str, Tokenizer]:
    nano = FastTokenizer(
        path="nano.tokenizer.json", bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    pieces = SentencePieceTokenizer(path="tokenizer.model", extra_special_tokens=("<im>", "<pd>"))
    return {
        "fast": nano.load([recipes.FOLDER]),
        "sentencepiece": pieces.load([case_path("sphinx/ens_1shard/checkpoint")]),
        "slow_llama": loaded("anyres_single")[0],
    }


@pytest.mark.parametrize("kind", ["fast", "sentencepiece", "slow_llama"])
def test_ids_offices_and_texts_are_the_same(kind: str, tmp_path: Path) -> None:
    ours = tokenizers()[kind]
    made = fast_tokenizer(ours, "{{ bos_token }}x")
    made.save_pretrained(tmp_path)
    for theirs in (made, AutoTokenizer.from_pretrained(tmp_path)):
        for text in (text for text in TEXTS if kind == "fast" or text not in OUR_RULES):
            ids = theirs.encode(text, add_special_tokens=False)
            assert ids == ours.encode(text)[0], text
            assert theirs.decode(ids, skip_special_tokens=True) == ours.decode(ids), text
        assert (theirs.bos_token_id, theirs.eos_token_id) == (ours.bos, ours.eos)
        assert theirs.pad_token_id == ours.pad
        assert set(theirs.all_special_ids) == ours.specials
        assert len(theirs) == ours.size
        assert theirs.chat_template == "{{ bos_token }}x"
        assert theirs.padding_side == "left"


def test_a_tokenizer_without_such_a_form_is_refused_by_name() -> None:
    with pytest.raises(RecipeError, match="object has no form that transformers knows"):
        fast_tokenizer(object())  # type: ignore[arg-type]
