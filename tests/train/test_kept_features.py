"""Training with features that are kept: the same run, whatever was there when it began."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from omnimix.errors import OmnimixError
from omnimix.media.image import ImageOpener
from omnimix.train.proving import prove
from omnimix.train.run import train
from omnimix.types import Media
from tests.train.runs import Write, metrics, record, same_weights
from tests.train.test_resume import stop_at


def stage(folder: Path | str | None, **words: Any) -> dict[str, Any]:
    kept = {} if folder is None else {"feature_cache": str(folder)}
    return {"max_steps": 4, "trainable": ["connectors"], **kept, **words}


def test_a_run_does_not_depend_on_what_is_kept(write: Write, tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    for name in "abc":
        noise = chance.integers(0, 255, (32, 48, 3)).astype(np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{name}.png")
    rows = [record(i).replace("a.png", f"{'abc'[i % 3]}.png") for i in range(5)]

    def run(out: str, kept: str | None, **words: Any) -> bool:
        words = {"listener": words.pop("listener", None)}
        return train(write(rows, [stage(kept)]), out=tmp_path / out, **words).finished

    assert run("plain", None) and run("cold", "one")
    files = {file: file.stat().st_mtime_ns for file in (tmp_path / "one").rglob("*.safetensors")}
    assert len(files) == 3
    opened = ImageOpener.open

    def unread(self: ImageOpener, media: Media) -> Any:
        # Pictures of files are not opened any more; that of the fingerprint lies in memory.
        assert isinstance(media.data, Image.Image)
        return opened(self, media)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImageOpener, "open", unread)
        assert run("warm", "one")
        assert not run("cut", "one", listener=stop_at(0, 2))
    said: list[str] = []
    assert prove(write(rows, [stage("one")]), out=tmp_path / "cut", tell=said.append), said
    assert run("cut", "one")
    same_weights(tmp_path / "cold", tmp_path / "warm")
    same_weights(tmp_path / "cold", tmp_path / "cut")
    plain, cold = metrics(tmp_path / "plain"), metrics(tmp_path / "cold")
    assert [a["loss"] for a in plain] == pytest.approx([b["loss"] for b in cold], abs=1e-4)
    assert files == {file: file.stat().st_mtime_ns for file in files}


def test_encoders_that_learn_are_refused_by_their_stage(write: Write, tmp_path: Path) -> None:
    path = write(stages=[stage("kept", trainable=["*"])])
    with pytest.raises(
        OmnimixError, match=r"stages.0.feature_cache: the encoder of 'image' learns"
    ):
        train(path, out=tmp_path / "run")


def test_stages_keep_each_for_itself(write: Write, tmp_path: Path) -> None:
    stages = [stage("kept", max_steps=1), stage(None, trainable=["image"], max_steps=2)]
    assert train(write(stages=stages), out=tmp_path / "run").finished
    assert len(list((tmp_path / "kept").rglob("*.safetensors"))) == 1
