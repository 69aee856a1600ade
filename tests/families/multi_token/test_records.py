"""Placeholders and lists become items at their places, or are refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from omnimix.errors import SampleError
from omnimix.families.multi_token.placeholders import PUBLISHED, conversation, published
from omnimix.types import Media
from tests.cases import case_path

ALL = [row.modality for row in PUBLISHED]


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def plain(sample: Any) -> list[list[Any]]:
    """Turns with media as (kind, data)."""
    return [
        [part if isinstance(part, str) else (part.kind, part.data) for part in turn.content]
        for turn in sample.turns
    ]


def test_the_table_is_the_published_one() -> None:
    facts = [
        json.loads(case_path(f"multi_token/{case}/case.json").read_text())
        for case in ("vision_lora", "audio_document_mix", "imagebind_three_kinds")
    ]
    rows = {(m["token"], m["data_key"]) for fact in facts for m in fact["modalities"]}
    assert rows <= {(row.token, row.key) for row in PUBLISHED} and len(rows) == 4


def test_items_stand_where_the_text_has_them() -> None:
    sample = conversation(
        [
            user("Given <image> and <image>, answer <speech>. <document><document>"),
            {"role": "assistant", "content": "Yes."},
            user("And <video>?"),
        ],
        {
            "images": ["a.png", "b.png"],
            "speech_audios": [{"path": "q.wav"}],
            "documents": ["one", "two"],
            "videos": ["c.mp4"],
            "temperature": 3,
        },
        ALL,
        "seven",
    )
    assert sample.id == "seven"
    assert plain(sample) == [
        [
            "Given ",
            ("image", "a.png"),
            " and ",
            ("image", "b.png"),
            ", answer ",
            ("speech", {"path": "q.wav"}),
            ". ",
            ("document", "one"),
            ("document", "two"),
        ],
        ["Yes."],
        ["And ", ("video", "c.mp4"), "?"],
    ]


def test_a_modality_of_ones_own_has_its_name() -> None:
    assert (published("signal").token, published("signal").key) == ("<signal>", "signals")
    sample = conversation([user("Is <signal> well? <image>")], {"signals": [[1.0]]}, ["signal"])
    # <image> is text for a model that has no such modality.
    assert plain(sample) == [["Is ", ("signal", [1.0]), " well? <image>"]]


def test_media_stay_what_they_are_and_text_alone_is_a_conversation() -> None:
    one = Media.image("a.png")
    assert conversation([user("<image>")], {"images": [one]}, ALL).turns[0].content == (one,)
    assert plain(conversation([user("Hello")], {}, ALL)) == [["Hello"]]
    assert plain(conversation([user("Hello")], {"images": []}, [])) == [["Hello"]]


def test_surplus_items_are_refused_or_ignored() -> None:
    lists = {"images": ["a.png", "b.png"]}
    with pytest.raises(SampleError, match=r"row: 1 placeholders <image> .* but 2 items in images"):
        conversation([user("<image>")], lists, ALL, "row")
    sample = conversation([user("<image>")], lists, ALL, "row", surplus="ignore")
    assert plain(sample) == [[("image", "a.png")]]


@pytest.mark.parametrize(
    ("messages", "lists", "says"),
    [
        (None, {}, "there are no messages"),
        ([], {}, "there are no messages"),
        ("hello", {}, "the messages are no list"),
        ({"role": "user"}, {}, "the messages are no list"),
        (["hello"], {}, "message 1: a message has a role and content"),
        ([{"role": "user"}], {}, "message 1: a message has a role and content"),
        ([{"role": "human", "content": "a"}], {}, "message 1: unknown role 'human'"),
        ([{"role": "user", "content": ["a"]}], {}, "message 1: the content is text, not a list"),
        ([user("<image> <image>")], {"images": ["a"]}, "2 placeholders <image> .* 1 items"),
        ([user("<image>")], {}, "1 placeholders <image> .* 0 items in images"),
        ([user("<image>")], {"images": "a.png"}, "images is a list, not a text"),
        (
            [user("a"), {"role": "assistant", "content": "<image>"}],
            {"images": ["a"]},
            "message 2: the placeholder <image> stands in a turn of the assistant",
        ),
    ],
)
def test_refusals(messages: Any, lists: dict[str, Any], says: str) -> None:
    with pytest.raises(SampleError, match=says):
        conversation(messages, lists, ALL, surplus="ignore")
