"""A recipe of every sense with tiny parts, and things to send it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image
from transformers.utils import logging

from omnimix.compose import recipe as recipes
from omnimix.compose.processor import Processor
from omnimix.compose.recipe import Recipe
from omnimix.types import Media
from tests.conftest import TINY
from tests.contracts.examples import EXAMPLES
from tests.contracts.test_registry import write_tokenizer
from tests.models import random_model

_PARTS = EXAMPLES["encoders"]
_NORM = {"kind": "normalize", "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}


def _branch(kind: str, tokens: int, steps: list, index: int = 0, **words: object) -> list:
    encoder = {"kind": kind, **_PARTS[kind][index], "steps": steps, **words}
    return [{"encoders": [encoder], "connector": {"kind": "token_mlp", "tokens": tokens}}]


def recipe_of_senses() -> Recipe:
    """Pictures, speech, sounds, videos, documents, and what ImageBind takes."""
    square = {"kind": "resize", "size": 32}
    hear = {"kind": "imagebind_sound", "num_mel_bins": 36, "frames": 46, "clips": 2, "seconds": 1}
    small = {"kind": "resize", "size": 28}
    # The encoder's dictionary of kinds is that of the contract tests.
    kinds = {
        "image": {"opens": "image", "steps": [small, _NORM]},
        "audio": {"opens": "audio", "steps": [hear]},
        "document": {
            "opens": "document",
            "steps": [
                {
                    "kind": "tokenize",
                    "path": "words.json",
                    "max_length": 16,
                    "pad_to_multiple_of": 4,
                }
            ],
        },
    }
    modalities = {
        "image": {
            "opens": "image",
            "steps": [square],
            "branches": _branch("transformers", 2, [_NORM], 2, pooled=True),
        },
        "speech": {
            "opens": "audio",
            "branches": _branch(
                "whisper",
                3,
                [{"kind": "log_mel", "feature_size": 8, "chunk_length": 2, "hop_length": 1600}],
            ),
        },
        "sound": {
            "opens": "audio",
            "branches": _branch(
                "clap",
                2,
                [
                    {
                        "kind": "clap_mel",
                        "feature_size": 16,
                        "sampling_rate": 8000,
                        "max_length_s": 2,
                        "hop_length": 80,
                        "frequency_max": 4e3,
                    }
                ],
                1,
            ),
        },
        "video": {
            "opens": {"kind": "video", "num_frames": 3},
            "steps": [square, {"kind": "clip", "num_frames": 3}],
            "branches": _branch("xclip", 3, [_NORM]),
        },
        "document": {
            "opens": "document",
            "branches": _branch(
                "text", 4, [{"kind": "tokenize", "path": "words.json", "chunks": 2}]
            ),
        },
        "imagebind": {
            "opens": {"kind": "several", "kinds": kinds},
            "branches": _branch("imagebind", 2, []),
        },
    }
    data = {"base": "nano", "name": "senses"}
    words = recipes.with_base(data, "senses")
    words["modalities"] = modalities
    overrides = [word for word in TINY if not word.startswith("modalities")]
    return recipes.parse(words, "senses", overrides)


def write_words(folder: Path) -> None:
    """The tokenizer of its documents."""
    write_tokenizer(folder / "words.json")


def picture(seed: int = 0) -> Image.Image:
    draw = np.random.default_rng(seed)
    return Image.fromarray(draw.integers(0, 256, (20, 30, 3), dtype=np.uint8))


def wave(seed: int = 0, seconds: float = 1.5) -> bytes:
    draw = np.random.default_rng(seed)
    file = io.BytesIO()
    soundfile.write(file, draw.normal(size=int(8000 * seconds)) * 0.1, 8000, format="WAV")
    return file.getvalue()


def speech(seed: int = 0) -> Media:
    return Media("speech", wave(seed))


def sound(seed: int = 0) -> Media:
    return Media("sound", wave(seed))


def video(seed: int = 0) -> Media:
    return Media.video([picture(seed + i) for i in range(4)])


def document(words: int = 9) -> Media:
    return Media.document("one two three four " * words)


def saved(place: Path) -> Path:
    """A folder of a tiny model of every sense, with random weights."""
    write_words(place)
    recipe = recipe_of_senses()
    logging.disable_progress_bar()
    random_model(recipe).save_pretrained(place / "model")
    Processor.from_recipe(recipe, place).save_pretrained(place / "model")
    return place / "model"
