"""Chance in preparing items: another one in every round, the same in a run that goes on."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from omnimix.data.mixture import Batches, Mixture, MixturePart, drawn
from omnimix.data.ordered import RoundBatches, Rounds
from omnimix.data.sources import JsonlSource
from omnimix.errors import MediaError
from omnimix.media.audio import AudioOpener
from omnimix.media.sound_steps import ClapMel
from omnimix.media.video import VideoOpener
from omnimix.types import Box, Media, Sample, Turn

ROWS = 3
OPENER = VideoOpener(num_frames=3, sampling="window")
PICTURES = [Image.new("RGB", (4, 4), (i, 0, 0)) for i in range(40)]


class Seen:
    """A processor that notes with which numbers items come, and makes nothing of them."""

    def __init__(self) -> None:
        self.draws: list[list[int | None]] = []

    def weave(self, sample: Sample, **_: Any) -> SimpleNamespace:
        self.draws.append([media.draw for media in sample.media("video")])
        return SimpleNamespace(digest=str)

    def batch(self, *_: Any, **__: Any) -> SimpleNamespace:
        return SimpleNamespace()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = [
        {
            "id": str(i),
            "turns": [
                {"role": "user", "content": [{"video": "clip.mp4"}, "What?"]},
                {"role": "assistant", "content": ["A cat."]},
            ],
        }
        for i in range(ROWS)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def in_rounds(folder: Path, seed: int = 0, first: int = 0) -> list[list[int | None]]:
    source = JsonlSource(path="rows.jsonl").open(folder)
    rounds = Rounds(source, "shuffled", 1, epochs=4, seed=seed)
    seen = Seen()
    batches = RoundBatches(source, rounds, seen, first)  # type: ignore[arg-type]
    for n in range(len(batches)):
        batches[n]
    return seen.draws


def test_a_record_is_drawn_anew_in_every_round(folder: Path) -> None:
    draws = in_rounds(folder)
    assert len(draws) == 4 * ROWS
    assert len({draw for (draw,) in draws}) == 4 * ROWS
    windows = {tuple(OPENER.indices(range(400), draw=draw)) for (draw,) in draws}
    assert len(windows) > ROWS, "the windows of a record differ from round to round"


def test_a_run_that_goes_on_draws_what_it_would_have_drawn(folder: Path) -> None:
    assert in_rounds(folder, first=5) == in_rounds(folder)[5:]
    assert in_rounds(folder, seed=1) != in_rounds(folder)


def test_the_stream_of_a_mixture_draws_anew_too(folder: Path) -> None:
    parts = (MixturePart(data=JsonlSource(path="rows.jsonl")),)

    def draws(first: int, count: int) -> list[list[int | None]]:
        seen = Seen()
        batches = Batches(Mixture(parts, folder, 0), seen, 2, first, count, False)  # type: ignore[arg-type]
        for n in range(len(batches)):
            batches[n]
        return seen.draws

    whole = draws(0, 6)
    assert len({draw for (draw,) in whole}) == 12
    assert draws(3, 3) == whole[6:]


def test_items_keep_what_they_have() -> None:
    video, own = Media.video("a.mp4"), Media("video", "b.mp4", draw=7)
    region = Media.region(Box(0, 0, 1, 1))
    sample = Sample((Turn("user", (video, "and", own, region)), Turn("user", (video,))))
    found = drawn(sample, 3)
    assert found.turns[0].content[0] is found.turns[1].content[0], "one item stays one"
    assert found.turns[0].content[0].draw is not None  # type: ignore[union-attr]
    assert found.turns[0].content[2:] == (own, region)
    text = Sample((Turn("user", ("a",)),))
    assert drawn(text, 3) is text


def reds(data: Any, **words: Any) -> list[int]:
    return [frame.getpixel((0, 0))[0] for frame in OPENER.open(Media("video", data, **words))]  # type: ignore[index]


def test_outside_of_training_a_video_gives_the_same_frames() -> None:
    assert reds(PICTURES) == reds(PICTURES)
    assert reds(PICTURES, draw=1) == reds(PICTURES, draw=1)
    assert len({tuple(reds(PICTURES, draw=n)) for n in range(20)}) > 5


def test_frames_may_be_stated() -> None:
    assert reds({"path": None, "frames": PICTURES[5:8]}) == [5, 6, 7]
    assert reds(PICTURES[9:12]) == [9, 10, 11], "as many pictures as a window are that window"
    with pytest.raises(MediaError, match="more than 3 are needed"):
        reds(PICTURES[:2])
    for frames in ([1, 2], [1, 2, 99], ["a", 1, 2], [True, 1, 2]):
        with pytest.raises(MediaError, match="frames"):
            reds({"path": "missing.mp4" if frames[0] != 1 else _film(), "frames": frames})


def _film() -> str:
    from tests.media.test_video import FILM

    path = Path("film.mp4").absolute()
    if not path.exists():
        path.write_bytes(FILM)
    return str(path)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


STEP = ClapMel(
    sampling_rate=8000, feature_size=8, max_length_s=1, fft_window_size=256, hop_length=160
)
NOISE = np.random.RandomState(0).uniform(-1, 1, 8000 * 3).astype(np.float32)


def heard(step: ClapMel = STEP, **words: Any) -> np.ndarray:
    item = {"array": NOISE, "sampling_rate": 8000, **words.pop("item", {})}
    return step.hear(AudioOpener().open(Media("audio", item, **words))).numpy()


def test_parts_of_a_long_sound_are_drawn_or_stated() -> None:
    assert np.array_equal(heard(), heard())
    assert not np.array_equal(heard(draw=1), heard(draw=2))
    stated = heard(item={"crops": [0, 50, 100]})
    whole = STEP.decibels(NOISE).numpy()
    for channel, start in zip(stated[0, 1:], (0, 50, 100), strict=True):
        assert np.array_equal(channel, whole[start : start + 51])
    alone = STEP.model_copy(update={"fusion": False})
    assert not np.array_equal(heard(alone, item={"crops": 0}), heard(alone, item={"crops": 900}))
    for crops in ([0, 1], [0, 1, 4000]):
        with pytest.raises(MediaError, match="states the crops"):
            heard(item={"crops": crops})
    with pytest.raises(MediaError, match="whole numbers from 0"):
        heard(item={"crops": [-1, 0, 0]})
