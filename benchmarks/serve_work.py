"""The model of `benchmarks.serve` and its questions."""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

import omnimix
from omnimix import cache
from omnimix.compose import recipe as recipes
from omnimix.compose.model import MultimodalLM
from omnimix.compose.processor import Processor
from omnimix.compose.sequence import Sequence as Woven
from omnimix.generate.assistant import Assistant
from omnimix.generate.decoding import request
from omnimix.generate.engine.core import Core, Generation
from omnimix.generate.engine.prompts import prompt
from omnimix.generate.engine.sampling import Sampler
from omnimix.generate.options import Options
from omnimix.types import Media, Sample, Turn

_ENCODER = "modalities.image.branches.0.encoders.0"
_LLAMA = (
    "model_type: llama, tie_word_embeddings: true, max_position_embeddings: 2048, bos_token_id: 1, eos_token_id: 2, "
    "pad_token_id: 0"
)
SHAPES: dict[str, tuple[str, ...]] = {
    "135m": (
        f"language.config={{{_LLAMA}, vocab_size: 49152, hidden_size: 576, intermediate_size: 1536, "
        "num_hidden_layers: 30, num_attention_heads: 9, num_key_value_heads: 3, initializer_range: 0.05}",
        f"{_ENCODER}.args={{embed_dim: 192, depth: 12, num_heads: 3, class_token: false}}",
        f"{_ENCODER}.finish=[]",
    ),
    "tiny": (
        f"language.config={{{_LLAMA}, vocab_size: 1024, hidden_size: 64, intermediate_size: 128, "
        "num_hidden_layers: 2, num_attention_heads: 4, num_key_value_heads: 2, initializer_range: 0.2}",
        f"{_ENCODER}.args={{embed_dim: 32, depth: 1, num_heads: 4, class_token: false}}",
    ),
}
"""Overrides of nano's recipe: SmolLM2-135M behind 196 tokens of a picture, and one to see that all of it runs."""
SPACE = "What is there to be seen, and which of the things is nearest to the left side? Number "
TOKENIZER = Path(omnimix.__file__).parent / "recipes" / "nano.tokenizer.json"


@dataclass(frozen=True)
class Work:
    """One model and its questions, each about a picture of its own."""

    assistant: Assistant
    woven: list[Woven]
    options: Options

    def requests(self, count: int) -> list[Generation]:
        """The first questions, asked anew."""
        model, endings = self.assistant.model, self.assistant.endings(self.options)
        return [
            request(prompt(one, model), model, self.options, endings) for one in self.woven[:count]
        ]

    def embedded(self, count: int) -> list[Tensor]:
        """Their prompts as embeddings `[tokens, width]`, the pictures in their places."""
        model = self.assistant.model
        with torch.inference_mode():
            return Core(model).items.embeddings([prompt(one, model) for one in self.woven[:count]])

    def asked(self, prompts: Sequence[Tensor]) -> list[Generation]:
        """Prompts that are embeddings, asked."""
        model, endings = self.assistant.model, self.assistant.endings(self.options)
        return [
            Generation(
                one,
                Sampler(self.options, torch.zeros(0, dtype=torch.long), (), model.vocab_size),
                self.options.max_new_tokens,
                endings,
            )
            for one in prompts
        ]

    def text(self, ids: Sequence[int]) -> str:
        """What a client is told."""
        return self.assistant.processor.tokenizer.decode(list(ids), skip_special_tokens=True)


def picture(number: int) -> Image.Image:
    noise = torch.Generator().manual_seed(number)
    pixels = torch.randint(0, 255, (64, 64, 3), generator=noise, dtype=torch.uint8)
    return Image.fromarray(pixels.numpy()).resize((224, 224))


def sample(number: int, words: str = "") -> Sample:
    """A question about a picture of its own."""
    return Sample((Turn("user", (Media.image(picture(number)), f"{SPACE}{number}{words}")),))


def body(number: int, tokens: int) -> dict[str, Any]:
    """The same question for `POST /v1/chat/completions`."""
    held = io.BytesIO()
    picture(number).save(held, "png")
    url = "data:image/png;base64," + base64.b64encode(held.getvalue()).decode()
    content = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": f"{SPACE}{number}"},
    ]
    message = {"role": "user", "content": content}
    return {"messages": [message], "max_tokens": tokens, "stream": True, "region_format": "raw"}


def work(
    overrides: Sequence[str] = SHAPES["135m"],
    count: int = 32,
    tokens: int = 64,
    device: str = "cpu",
) -> Work:
    """The model with random weights, and questions."""
    torch.manual_seed(0)
    recipe = recipes.load("nano", overrides)
    model = MultimodalLM.from_recipe(recipe).eval().to(device)
    assistant = Assistant(model, Processor.from_recipe(recipe))
    options = Options(max_new_tokens=tokens, stop_strings=())
    return Work(assistant, [assistant.weave(sample(i), options) for i in range(count)], options)


def shaped(shape: str, folder: Path, count: int, tokens: int, device: str = "cpu") -> Work:
    """The work of a shape. Every token has a text, so that clients see all of an answer.

    Args:
        folder: for the tokenizer, and for files that back ends keep.
    """
    os.environ[cache.MOVED] = str(folder / "cache")
    words = json.loads(TOKENIZER.read_text())
    known = words["model"]["vocab"]
    first = 1 + max([*known.values(), *(one["id"] for one in words["added_tokens"])])
    config = recipes.load("nano", SHAPES[shape]).language.hf_config()
    known |= {f"\u0120q{i}": i for i in range(first, config.vocab_size)}
    file = folder / "tokenizer.json"
    file.write_text(json.dumps(words))
    return work([*SHAPES[shape], f"tokenizer.path={file}"], count, tokens, device)
