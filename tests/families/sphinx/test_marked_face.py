"""SPHINX-V's face: marks in pixels, what is refused, and that nothing given is changed."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from omnimix.checkpoints import base, reading
from omnimix.encoders.regions import prompts
from omnimix.errors import OmnimixError
from omnimix.families.sphinx import SPHINX_V_Model
from omnimix.families.sphinx.conversation import asked, marked
from omnimix.generate.assistant import Assistant
from omnimix.types import Box, Mask, Media, Point, Region, Sample, Turn
from tests.cases import golden

CASE = "sphinx_v/ens5_vp"
ASK = [["Please identify the labels of each marked region in the image.", None]]
BOX = [30, 20, 120, 60]


@pytest.fixture(scope="module")
def model() -> SPHINX_V_Model:
    folder, _, _ = golden(CASE)
    found, processor, _ = reading.load(base.open_release(folder / "checkpoint"))
    return SPHINX_V_Model(Assistant(found, processor))


@pytest.fixture(scope="module")
def picture() -> str:
    folder, _, _ = golden(CASE)
    return str(folder / "inputs/temple.png")


def test_two_turns_with_the_same_list(model: SPHINX_V_Model, picture: str) -> None:
    _, facts, _ = golden(CASE)
    vps = [list(mark) for mark in facts["results"]["generate"][0]["vps"]]
    kept = [list(mark) for mark in vps]
    first = model.generate_response(ASK, vps, picture, 40, temperature=0.0)
    assert first == facts["results"]["generate"][0]["text"]
    assert vps == kept
    assert model.generate_response(ASK, vps, picture, 40, temperature=0.0) == first
    second = facts["results"]["generate"][1]
    found = model.generate_response(second["qas"], vps, picture, max_gen_len=40, temperature=0.0)
    assert found == second["text"]
    assert model.generate_reponse(ASK, vps, picture, 40, 0.0) == first


def test_regions_and_numbers_are_the_same(model: SPHINX_V_Model, picture: str) -> None:
    def rows(marks: Any) -> torch.Tensor:
        woven = model.assistant.processor.weave(asked(ASK, marked(marks, picture)), True)
        return prompts(woven.items["region"][0].inputs[0])[0]

    mask = np.zeros((213, 320), dtype=bool)
    mask[20:81, 30:151] = True  # the last pixel is the far edge, as in the original's demo
    wanted = rows([BOX, [40, 50]])
    assert torch.equal(rows([Box(30, 20, 150, 80), Point(40, 50)]), wanted)
    assert torch.equal(rows([Mask(mask), (40, 50)]), wanted)
    assert wanted[:3].tolist() == pytest.approx(
        np.array([[0.094, 0.228, 0.469, 0.416], [0.125, 0.322, -1, -1], [0, 0, 0, 0]])
    )


def test_places_of_the_sequence(model: SPHINX_V_Model, picture: str) -> None:
    woven = model.assistant.processor.weave(asked(ASK, marked([BOX], picture)), True)
    assert (woven.owner[:1] == 0).all()
    assert (woven.owner[1:1456] == 1).all()
    assert (woven.owner[1456:1468] == 2).all()
    assert (woven.owner[1468:] == 0).all()


def test_no_marks_is_text_alone_and_says_so(model: SPHINX_V_Model, picture: str) -> None:
    with pytest.warns(UserWarning, match="looks at a picture only together with marks"):
        media = marked(None, picture)
    assert not media
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not marked(None)


@pytest.mark.parametrize(
    ("vps", "says"),
    [
        ([], "the list of marks is empty. Give points"),
        ([[1, 2, 3]], r"question: mark 1: \[1, 2, 3\] is no mark. A point is \[x, y\]"),
        ([BOX, [float("nan"), 2]], "question: mark 2: .* is no mark"),
        ([[330, 20]], r"the point at \(330, 20, 330, 20\) lies outside the picture of 320 x 213"),
        ([[400, 20, 30, 30]], r"the box at \(400, 20, 430, 50\) lies outside"),
        ([[40, 20, 0, 30]], r"the box \(40, 20, 40, 50\) has no extent. Give x1"),
        ([[40, 20, -5, 30]], "has no extent"),
        (
            [[10 + i, 5] for i in range(11)],
            "11 items of 'region', .* has places for 10. Send fewer",
        ),
        ([Mask(np.zeros((213, 320), dtype=bool))], "the mask is empty. Mark at least one pixel"),
        ([Mask(np.ones((5, 5), dtype=bool))], "the mask is 5 x 5 pixels, its picture 320 x 213"),
    ],
)
def test_marks_that_cannot_be(
    vps: list[Any], says: str, model: SPHINX_V_Model, picture: str
) -> None:
    with pytest.raises(OmnimixError, match=says):
        model.generate_response(ASK, vps, picture)


def test_marks_without_their_picture(model: SPHINX_V_Model, picture: str) -> None:
    with pytest.raises(OmnimixError, match=r"1 marks lie on no picture. Give the picture"):
        model.generate_response(ASK, [BOX])
    image, region = Media.image(picture), Media.region(Box(30, 20, 150, 80), on=1)
    with pytest.raises(
        OmnimixError, match="a region lies on picture 1, counted from 0, but 1 came before it"
    ):
        model.assistant.reply(Sample((Turn("user", (image, region, "What?")),), "question"))
    alone = Sample((Turn("user", (Media.region(Box(30, 20, 150, 80)), "What?")),), "question")
    with pytest.raises(OmnimixError, match="a region lies on a picture, but no picture came"):
        model.assistant.reply(alone)


@pytest.mark.parametrize("size", [(401, 57), (57, 401), (101, 100)])
def test_a_region_on_an_odd_picture_reaches_the_encoder_as_in_the_reference(
    size: tuple[int, int], model: SPHINX_V_Model
) -> None:
    width, height = size
    side, left, top = max(size), int(max(0, height - width) / 2), int(max(0, width - height) / 2)
    regions: list[Region] = [Box(3, 5, 50, 51), Point(17, 33), Box(0, 0, width, height)]
    media = marked(regions, Image.new("RGB", size))
    woven = model.assistant.processor.weave(asked(ASK, media), True)
    found = prompts(woven.items["region"][0].inputs[0])[0, :3]

    def at(x: float, y: float) -> list[float]:
        return [round((x + left) / side, 3), round((y + top) / side, 3)]

    wanted = [
        [*at(3, 5), *at(50, 51)],
        [*at(17, 33), -1, -1],
        [*at(0, 0), *at(width, height)],
    ]
    assert torch.equal(found, torch.tensor(wanted, dtype=torch.float32))


def test_several_prompts_with_marks_of_both_kinds(model: SPHINX_V_Model, picture: str) -> None:
    """In one batch: boxes on one picture, points on another, as each would be answered alone."""
    folder, facts, _ = golden(CASE)
    asks = [facts["results"]["generate"][i] for i in (0, 3)]
    images = [str(folder / "inputs" / one["image"]) for one in asks]
    prompts_ = [model.prompt(one["qas"]) for one in asks]
    found = model.generate(
        prompts_, [one["vps"] for one in asks], images, 40, additional_stop_symbols=["\n###"]
    )
    assert found == [one["text"] for one in asks]
    pieces = list(
        model.stream_generate(prompts_[0], asks[0]["vps"], picture, 40, 0.0, 1.0, ["\n###"])
    )
    assert pieces[-1] == {"text": asks[0]["text"], "end_of_content": True}
    scores = model.evaluate_examples(
        [f"{prompts_[0]} {asks[0]['text']}"], prompts_[:1], [asks[0]["vps"]], [picture]
    )
    assert scores["max_equal"] == [True]
    with pytest.raises(OmnimixError, match="1 lists of marks and 2 pictures for 2 prompts"):
        model.generate(prompts_, [asks[0]["vps"]], images)
