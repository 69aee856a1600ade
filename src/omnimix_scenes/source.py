"""The drawn world as a dataset of a training file."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from omnimix.data.sources import Source, SourceSpec
from omnimix.types import Sample
from omnimix_scenes import Scenes


class _Scenes(Source):
    def __init__(self, scenes: Scenes) -> None:
        self.scenes = scenes

    def __getitem__(self, index: int) -> Sample:
        return self.scenes[index]


class ScenesSource(SourceSpec):
    """The synthetic world (`omnimix_scenes`), endless.

    Attributes:
        seed: another seed gives other pictures.
        split: `train`, or `heldout` with pictures, combinations and words that train never has.
        questions: most questions of a conversation; 6 by default.
        tasks: the tasks to ask; None asks all.
        kinds: the kinds of pictures (`shapes`, `mixed`, `words`, `chart`, `pair`; `page` when named alone);
            None draws all but `page`.
    """

    kind: Literal["scenes"] = "scenes"
    seed: int = 0
    split: Literal["train", "heldout"] = "train"
    questions: int = 6
    tasks: tuple[str, ...] | None = None
    kinds: tuple[str, ...] | None = None

    def open(self, folder: Path) -> Source:
        scenes = Scenes(self.seed, self.split, self.questions, self.tasks, kinds=self.kinds)
        return _Scenes(scenes)
