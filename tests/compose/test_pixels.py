"""Pictures under the names of others: the same answers as by our own, or refused in a sentence."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from omnimix.compose.model import MultimodalLM
from omnimix.compose.pixels import PIXELS, PLACES
from omnimix.compose.processor import Processor
from omnimix.errors import OmnimixError, SpliceError
from omnimix.types import Media, Sample, Turn

COLOURS = ((200, 30, 30), (30, 200, 30), (30, 30, 200))
PICTURES = [Image.new("RGB", (40, 30), colour) for colour in COLOURS]
ROWS = (("What?", PICTURES[:1]), ("And which of these?", PICTURES[1:]), ("Hello there", []))
WRITE: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None}


@pytest.fixture(scope="module")
def theirs(tiny_processor: Processor) -> dict[str, Tensor]:
    texts, pictures = [row[0] for row in ROWS], [row[1] for row in ROWS]
    marked = ["<image>" * len(own) + text for text, own in zip(texts, pictures, strict=True)]
    return dict(tiny_processor(text=marked, images=pictures, return_tensors="pt"))


@pytest.fixture(scope="module")
def ours(tiny_processor: Processor, theirs: dict[str, Tensor]) -> dict[str, Any]:
    samples = [Sample((Turn("user", (*map(Media.image, own), text)),), text) for text, own in ROWS]
    items = tiny_processor(samples, open_answer=True)["items"]
    words = {name: theirs[name] for name in ("input_ids", "attention_mask")}
    return {**words, "item_places": theirs[PLACES], "items": items}


def test_they_say_what_ours_say(
    tiny_model: MultimodalLM, theirs: dict[str, Tensor], ours: dict[str, Any]
) -> None:
    assert theirs[PIXELS].shape[:2] == (3, 1)
    wanted = tiny_model(**ours).logits
    assert torch.equal(tiny_model(**theirs).logits, wanted)
    # Rows and their pictures, cut out of the batch as TRL does.
    for rows, pictures in ((slice(0, 1), slice(0, 1)), (slice(1, 3), slice(1, 3))):
        cut = {name: value[rows] for name, value in theirs.items()}
        cut[PIXELS] = theirs[PIXELS][pictures]
        torch.testing.assert_close(tiny_model(**cut).logits, wanted[rows], atol=1e-4, rtol=1e-4)
    text = {name: value[2:] for name, value in theirs.items()} | {PIXELS: theirs[PIXELS][:0]}
    torch.testing.assert_close(tiny_model(**text).logits, wanted[2:], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "way",
    [
        {},
        {"num_beams": 2, "num_return_sequences": 2},
        {"use_cache": False},
        {"do_sample": True, "num_return_sequences": 3},
    ],
)
def test_generation(
    way: dict[str, Any],
    tiny_model: MultimodalLM,
    theirs: dict[str, Tensor],
    ours: dict[str, Any],
) -> None:
    answers = []
    for batch in (theirs, ours):
        torch.manual_seed(0)
        answers.append(tiny_model.generate(**batch, **WRITE | way))
    assert torch.equal(*answers)


def test_what_does_not_fit_is_refused(
    tiny_model: MultimodalLM, theirs: dict[str, Tensor], ours: dict[str, Any]
) -> None:
    without = {name: value for name, value in theirs.items() if name != PLACES}
    for wrong, said in (
        (without, f"{PIXELS} without {PLACES}"),
        (theirs | {"items": ours["items"]}, f"both {PIXELS} and items"),
        (theirs | {"item_places": theirs[PLACES]}, f"both {PLACES} and item_places"),
        (theirs | {PIXELS: theirs[PIXELS][:2]}, "147 places for 2 pictures of 49 tokens"),
        (
            theirs | {PIXELS: theirs[PIXELS][:, 0]},
            r"pixel_values \[3, 3, \d+, \d+\] say too little",
        ),
    ):
        for call in (tiny_model.forward, tiny_model.generate):
            with pytest.raises(SpliceError, match=said):
                call(**wrong)
    with pytest.raises(OmnimixError, match="negative_prompt_ids are read as text alone"):
        tiny_model.generate(
            **theirs, **WRITE, guidance_scale=2.0, negative_prompt_ids=theirs["input_ids"]
        )


def test_logits_of_the_last_places_alone(
    tiny_model: MultimodalLM, theirs: dict[str, Tensor]
) -> None:
    whole = tiny_model(**theirs).logits
    last = tiny_model(**theirs, logits_to_keep=2).logits
    assert last.shape[1] == 2
    torch.testing.assert_close(last, whole[:, -2:], atol=1e-4, rtol=1e-4)
    assert tiny_model._supports_logits_to_keep()


def test_labels_of_the_next_place(tiny_model: MultimodalLM, theirs: dict[str, Tensor]) -> None:
    labels = theirs["input_ids"]
    moved = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=-100)
    wanted = tiny_model(**theirs, labels=labels).loss
    torch.testing.assert_close(tiny_model(**theirs, shift_labels=moved).loss, wanted)
