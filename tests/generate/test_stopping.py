"""Where an answer ends, and what a stream may show already."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from omnimix.errors import OmnimixError
from omnimix.generate.decoding import Options
from omnimix.generate.stopping import Stops, cut, settled


def test_the_first_stop_string_cuts() -> None:
    assert cut("one\ntwo###", ("###", "\n")) == ("one", True)
    assert cut("one", ("###",)) == ("one", False)
    assert cut("a#b#c", ("#",), 2) == ("a#b", True)
    assert settled("a#b", ("b#",), 2) == "a#" and settled("a#b", ("b#",), 3) == "a#b"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a box ", "a box"),
        (" a", "a"),
        ("a#", "a"),
        ("a##", "a"),
        ("a#b", "a#b"),
        ("a###b", "a"),
        ("caf\ufffd", "caf"),
        ("caf\u00e9", "caf\u00e9"),
    ],
)
def test_only_settled_text_is_shown(text: str, wanted: str) -> None:
    assert settled(text, ("###",)) == wanted


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("max_new_tokens", 0),
        ("min_new_tokens", 100),
        ("temperature", -1.0),
        ("temperature", math.nan),
        ("top_p", 0.0),
        ("top_k", -1),
        ("repetition_penalty", 0.0),
        ("presence_penalty", 2.5),
        ("frequency_penalty", math.nan),
        ("logprobs", 21),
        ("logit_bias", {3: 101.0}),
        ("logit_bias", {-1: 1.0}),
        ("logit_bias", {"5": 5}),
        ("logit_bias", [5]),
        ("temperature", "0.5"),
        ("max_new_tokens", "8"),
        ("top_k", 2.5),
        ("seed", 1.5),
        ("seed", -1),
        ("seed", 2**70),
        ("stop_strings", ""),
        ("stop_strings", [""]),
        ("stop_strings", 5),
        ("pointing", 5),
    ],
)
def test_options_out_of_range_are_refused_by_name(word: str, value: Any) -> None:
    with pytest.raises(OmnimixError, match=word):
        Options(**{word: value})


def test_a_bare_stop_string_is_one_and_stops_are_added_to_the_templates() -> None:
    assert Options(stop_strings="large").stop_strings == ("large",)  # type: ignore[arg-type]
    assert Options(stop_strings=["a", "\n"]).stops(("\n",)).strings == ("\n", "a")  # type: ignore[arg-type]
    assert Options(stop_strings=()).stops(("\n",)) == Stops(("\n",))
    assert Options(max_new_tokens=np.int64(8), temperature=1).max_new_tokens == 8
