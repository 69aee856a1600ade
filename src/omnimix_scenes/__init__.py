"""A synthetic world: pictures drawn from a seed, with exact ground truth and questions about it."""

from __future__ import annotations

from omnimix_scenes.drawing import draw
from omnimix_scenes.scenes import Scenes
from omnimix_scenes.scoring import score
from omnimix_scenes.vocab import COLOURS, HELDOUT_PAIRS, SHAPES, TASKS, is_heldout_word
from omnimix_scenes.world import Chart, Scene, Thing, Word

__all__ = [
    "COLOURS",
    "HELDOUT_PAIRS",
    "SHAPES",
    "TASKS",
    "Chart",
    "Scene",
    "Scenes",
    "Thing",
    "Word",
    "draw",
    "is_heldout_word",
    "score",
]
