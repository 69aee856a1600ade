"""Where an answer ends, and what a stream may show already."""

from __future__ import annotations

import pytest

from omnimix.errors import OmnimixError
from omnimix.generate.decoding import Options
from omnimix.generate.stopping import cut, settled


def test_the_first_stop_string_cuts() -> None:
    assert cut("one\ntwo###", ("###", "\n")) == ("one", True)
    assert cut("one", ("###",)) == ("one", False)


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


@pytest.mark.parametrize("words", [{"max_new_tokens": 0}, {"temperature": -1.0}, {"top_p": 0.0}])
def test_options_out_of_range_are_refused(words: dict[str, float]) -> None:
    with pytest.raises(OmnimixError):
        Options(**words)  # type: ignore[arg-type]
