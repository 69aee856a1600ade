"""Every way of `generate` on every shipped recipe: what a row would be answered alone, or refused in a sentence.

Alone means: the row's embeddings with its items in their places, written by the language model itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import QuantizedCache

from omnimix.compose import recipe as recipes
from omnimix.compose.batch import Batch
from omnimix.compose.model import MultimodalLM
from omnimix.errors import OmnimixError, SpliceError
from tests.compose.shrunk import processor_of, shrunk, unlike
from tests.models import random_model

NEW = 4
WRITE: dict[str, Any] = {"max_new_tokens": NEW, "do_sample": False, "eos_token_id": None}
ROWS = ("input_ids", "attention_mask", "item_places")
BEAMS: dict[str, Any] = {"num_beams": 3}


@dataclass(frozen=True, eq=False)
class Case:
    """A model, its batch of three, and what each row is answered alone."""

    model: MultimodalLM
    batch: Batch

    def rows(self, rows: slice) -> dict[str, Any]:
        """Rows cut out of the batch, as any caller cuts a dictionary of tensors."""
        return {name: value[rows] for name, value in self.batch.items()}

    def alone(self, row: int, **words: Any) -> list[list[int]]:
        """The language model's answers to one row's embeddings, without padding."""
        one = self.rows(slice(row, row + 1))
        real = one["attention_mask"][0].bool()
        embeddings = self.model.embed(one["input_ids"], one["items"], one["item_places"])[:, real]
        written: list[list[int]] = self.model.language.generate(
            inputs_embeds=embeddings,
            attention_mask=one["attention_mask"][:, real],
            **{**WRITE, "pad_token_id": 0, **words},
        ).tolist()
        return written

    def write(self, inputs: dict[str, Any], **words: Any) -> list[list[int]]:
        """The model's own answers."""
        ids = self.model.generate(**inputs, **{**WRITE, "pad_token_id": 0, **words})
        new: list[list[int]] = ids[:, inputs["input_ids"].shape[1] :].tolist()
        return new


@pytest.fixture(scope="module", params=recipes.names())
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    recipe = shrunk(request.param)
    processor = processor_of(recipe, tmp_path_factory.mktemp("files"))
    batch = processor(unlike(recipe), open_answer=True)
    return Case(random_model(recipe), batch)


@pytest.fixture(scope="module")
def greedy(case: Case) -> list[list[int]]:
    answers = [answer for row in range(3) for answer in case.alone(row)]
    # Rows that are answered alike would not show which items they saw.
    assert len({tuple(answer) for answer in answers}) == 3
    return answers


def cache_of(output: Any) -> Any:
    """Its name depends on the installed transformers."""
    return next(output[name] for name in ("cache", "past_key_values") if name in output)


def padded(inputs: dict[str, Any]) -> dict[str, Any]:
    """More padding on the left, by hand."""
    return inputs | {name: functional.pad(inputs[name], (5, 0)) for name in ROWS}


def unmasked(inputs: dict[str, Any]) -> dict[str, Any]:
    """Padding is then told by its id, which stands in the holes as well."""
    return {name: value for name, value in inputs.items() if name != "attention_mask"}


GREEDY: dict[str, dict[str, Any]] = {
    "plain": {},
    "no cache": {"use_cache": False},
    "static cache": {"cache_implementation": "static"},
    "chunked prefill": {"prefill_chunk_size": 7},
    "chunked prefill of a static cache": {
        "prefill_chunk_size": 7,
        "cache_implementation": "static",
    },
}
QUANTIZED: dict[str, dict[str, Any]] = {"fp8": {}, "quanto": {"q_group_size": 8, "nbits": 2}}
"""Kinds of quantized caches; the first needs no package."""
ONE_ROW: dict[str, dict[str, Any]] = {
    "prompt lookup": {"prompt_lookup_num_tokens": 2},
    "early exit": {"assistant_early_exit": 1},
}


@pytest.mark.parametrize("way", GREEDY)
@pytest.mark.parametrize("rows", [slice(0, 1), slice(0, 3)], ids=["one", "three"])
def test_greedy_ways(case: Case, greedy: list[list[int]], way: str, rows: slice) -> None:
    assert case.write(case.rows(rows), **GREEDY[way]) == greedy[rows]


@pytest.mark.parametrize("change", [padded, unmasked])
def test_rows_padded_by_hand(
    case: Case, greedy: list[list[int]], change: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    assert case.write(change(case.rows(slice(0, 3)))) == greedy


def test_rows_cut_out(case: Case, greedy: list[list[int]]) -> None:
    for rows in (slice(1, 3), slice(2, 3), slice(0, 3, 2)):
        assert case.write(case.rows(rows)) == greedy[rows]


@pytest.mark.parametrize("way", ONE_ROW)
def test_ways_of_one_row(case: Case, greedy: list[list[int]], way: str) -> None:
    for row in range(3):
        assert case.write(case.rows(slice(row, row + 1)), **ONE_ROW[way]) == [greedy[row]]
    with pytest.raises(ValueError, match="only supported for batch_size = 1"):
        case.write(case.rows(slice(0, 3)), **ONE_ROW[way])


def test_an_assistant(case: Case, greedy: list[list[int]]) -> None:
    """Another model of the kind drafts, which sees the items itself; the language model alone is refused."""
    assistant = random_model(case.model.recipe, std=0.2)
    one = case.rows(slice(2, 3))
    assert case.write(one, assistant_model=assistant) == [greedy[2]]
    with pytest.raises(ValueError, match=r"not used by the model.*item_places"):
        case.write(one, assistant_model=assistant.language)


@pytest.mark.parametrize("rows", [slice(0, 1), slice(0, 3)], ids=["one", "three"])
@pytest.mark.parametrize("cache", [{}, {"use_cache": False}, {"cache_implementation": "static"}])
def test_beams_and_several_answers(case: Case, rows: slice, cache: dict[str, Any]) -> None:
    several = BEAMS | {"num_return_sequences": 2}
    alone = [case.alone(row, **several) for row in range(3)[rows]]
    assert case.write(case.rows(rows), **several, **cache) == [one for row in alone for one in row]
    best = [row[0] for row in alone]
    assert case.write(case.rows(rows), **BEAMS, **cache) == best


@pytest.mark.parametrize("rows", [slice(0, 1), slice(0, 3)], ids=["one", "three"])
def test_sampling_by_seed(case: Case, rows: slice) -> None:
    """Draws follow one another row by row, so that a batch is compared with the batch of its embeddings."""
    words = {**WRITE, "do_sample": True, "pad_token_id": 0, "num_return_sequences": 3}
    inputs = case.rows(rows)
    embeddings = case.model.embed(inputs["input_ids"], inputs["items"], inputs["item_places"])
    mask = inputs["attention_mask"]

    def drawn(write: Callable[..., Tensor], **inputs: Any) -> Tensor:
        with torch.random.fork_rng():
            torch.manual_seed(3)
            return write(**inputs, **words)[:, -NEW:]

    wanted = drawn(case.model.language.generate, inputs_embeds=embeddings, attention_mask=mask)
    assert torch.equal(drawn(case.model.generate, **inputs), wanted)
    assert len({tuple(answer) for answer in wanted.tolist()}) > 1


@pytest.mark.parametrize("backend", QUANTIZED)
@pytest.mark.parametrize("rows", [slice(2, 3), slice(0, 3)], ids=["one", "three"])
def test_a_quantized_cache(case: Case, backend: str, rows: slice) -> None:
    """What it keeps is coarser, so it is compared with the language model's own over the same rows."""
    given = {"backend": backend, **QUANTIZED[backend]}
    words = {**WRITE, "cache_implementation": "quantized", "cache_config": given, "pad_token_id": 0}
    words |= {"output_logits": True, "return_dict_in_generate": True}
    inputs = case.rows(rows)
    embeddings = case.model.embed(inputs["input_ids"], inputs["items"], inputs["item_places"])
    alone = {"inputs_embeds": embeddings, "attention_mask": inputs["attention_mask"]}
    try:
        wanted = case.model.language.generate(**alone, **words)
    except (ImportError, ValueError) as error:
        # Windows, and a package that is not there: as for the language model.
        with pytest.raises(type(error), match=re.escape(str(error)[:30])):
            case.model.generate(**inputs, **words)
        assert backend != "fp8" or "only full attention layers" in str(error)
        return
    found = case.model.generate(**inputs, **words)
    assert isinstance(cache_of(found), QuantizedCache)
    torch.testing.assert_close(found.logits, wanted.logits, atol=1e-4, rtol=1e-4)
    assert torch.equal(found.sequences[:, -NEW:], wanted.sequences)
    whole = case.model.generate(
        **inputs, **words | {"cache_implementation": None, "cache_config": None}
    )
    assert not torch.equal(found.logits[-1], whole.logits[-1])


def test_embeddings_in_place_of_ids(case: Case, greedy: list[list[int]]) -> None:
    """Spliced by the caller, or text with items beside it, which are put in."""
    inputs = case.rows(slice(0, 3))
    ids = inputs.pop("input_ids")
    text = {"inputs_embeds": case.model.get_input_embeddings()(ids)}
    words = {**WRITE, "pad_token_id": 0}
    assert case.model.generate(**inputs, **text, **words).tolist() == greedy
    items, places = inputs.pop("items"), inputs.pop("item_places")
    whole = {"inputs_embeds": case.model.embed(ids, items, places)}
    assert case.model.generate(**inputs, **whole, **words).tolist() == greedy
    with pytest.raises(OmnimixError, match="cannot be run in chunks"):
        case.model.generate(**inputs, **whole, **words, prefill_chunk_size=7)


def test_what_does_not_fit_is_refused(case: Case) -> None:
    inputs = case.rows(slice(0, 3))
    without = {name: value for name, value in inputs.items() if name != "item_places"}
    short = inputs | {"item_places": inputs["item_places"][:, 1:]}
    beyond = inputs | {"item_places": inputs["item_places"] * 2}
    for wrong, said in (
        (without, "items without item_places"),
        (short, r"item_places are \[3, \d+\], the tokens \[3, \d+\]"),
        (beyond, r"item_places name feature \d+, and the items have \d+"),
    ):
        with pytest.raises(SpliceError, match=said):
            case.write(wrong)
    with pytest.raises(OmnimixError, match="token_healing"):
        case.write(inputs, token_healing=True)
    with pytest.raises(OmnimixError, match="continuous batching takes ids alone"):
        case.model.generate_batch(inputs=[[1, 2, 3]])
