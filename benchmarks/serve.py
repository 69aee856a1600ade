"""The engine beside transformers' `generate`: the same model, questions and greedy ids, turn about in one process.

Run `python -m benchmarks.serve` (or `make bench-serve`). The model has the shape of SmolLM2-135M behind a small picture
encoder, with random weights; a question is a picture and some words, about 230 tokens, and an answer 64. With `--out`
the results are written as Markdown and as JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from benchmarks.harness import spread
from omnimix.compose import recipe as recipes
from omnimix.compose.model import MultimodalLM
from omnimix.compose.processor import Processor
from omnimix.compose.sequence import Sequence as Woven
from omnimix.generate.assistant import Assistant
from omnimix.generate.decoding import request
from omnimix.generate.engine.core import Core, Generation, Limits
from omnimix.generate.engine.prompts import prompt
from omnimix.generate.options import Options
from omnimix.serve.batched import Batched, limits
from omnimix.types import Media, Sample, Turn

_ENCODER = "modalities.image.branches.0.encoders.0"
SHAPE = (
    "language.config={model_type: llama, vocab_size: 49152, hidden_size: 576, intermediate_size: 1536, "
    "num_hidden_layers: 30, num_attention_heads: 9, num_key_value_heads: 3, tie_word_embeddings: true, "
    "max_position_embeddings: 2048, bos_token_id: 1, eos_token_id: 2, pad_token_id: 0, initializer_range: 0.05}",
    f"{_ENCODER}.args={{embed_dim: 192, depth: 12, num_heads: 3, class_token: false}}",
    f"{_ENCODER}.finish=[]",
)
"""Overrides of nano's recipe: SmolLM2-135M behind 196 tokens of a picture."""
SPACE = "What is there to be seen, and which of the things is nearest to the left side? Number "


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


def sample(number: int, words: str = "") -> Sample:
    """A question about a picture of its own."""
    noise = torch.Generator().manual_seed(number)
    pixels = torch.randint(0, 255, (64, 64, 3), generator=noise, dtype=torch.uint8)
    picture = Media.image(Image.fromarray(pixels.numpy()).resize((224, 224)))
    return Sample((Turn("user", (picture, f"{SPACE}{number}{words}")),))


def work(
    overrides: Sequence[str] = SHAPE, count: int = 32, tokens: int = 64, device: str = "cpu"
) -> Work:
    """The model with random weights, and questions."""
    torch.manual_seed(0)
    recipe = recipes.load("nano", overrides)
    model = MultimodalLM.from_recipe(recipe).eval().to(device)
    assistant = Assistant(model, Processor.from_recipe(recipe))
    options = Options(max_new_tokens=tokens, stop_strings=())
    return Work(assistant, [assistant.weave(sample(i), options) for i in range(count)], options)


def by_generate(given: Work, count: int, together: bool) -> list[list[int]]:
    """transformers' own loop, one question after another or all in one padded batch."""
    assistant = given.assistant
    ends = sorted(assistant.endings(given.options).ends)
    config = given.options.config(ends, assistant.processor.weave.tokenizer.pad)
    rows = given.woven[:count]
    found: list[list[int]] = []
    for part in [rows] if together else [[row] for row in rows]:
        batch = assistant.batch(part)
        with torch.inference_mode():
            ids = assistant.model.generate(**batch.inputs(), generation_config=config)
        found += ids[:, batch.input_ids.shape[1] :].tolist()
    return found


def by_engine(given: Work, count: int) -> list[list[int]]:
    """The engine, without what an earlier question could have left behind."""
    requests = given.requests(count)
    Core(given.assistant.model, Limits(), given.assistant.decoder.runner).run(requests)
    return [one.ids for one in requests]


def by_server(given: Work, count: int) -> list[list[int]]:
    """The engine behind the server's face, its questions woven there."""

    async def run() -> list[list[int]]:
        engine = Batched(given.assistant, "bench", Limits(cache_memory=2**31))
        asked = (engine.generate(sample(i), given.options) for i in range(count))
        answers = await asyncio.gather(*asked)
        await engine.close()
        return [list(one.ids) for one in answers]

    return asyncio.run(run())


def seconds(run: Callable[[], object]) -> float:
    """How long it takes."""
    begin = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def first_token(given: Work, core: Core, woven: Woven) -> float:
    """Seconds from asking to the first token of an answer."""
    model, options = given.assistant.model, given.options.but({"max_new_tokens": 1})
    begin = time.perf_counter()
    one = request(prompt(woven, model), model, options, given.assistant.endings(options))
    core.run([one])
    return time.perf_counter() - begin


def second_question(given: Work, number: int) -> tuple[float, float]:
    """Seconds to the first token: of a first question on a picture, and of a second one."""
    core = Core(given.assistant.model, limits(), given.assistant.decoder.runner)
    two = [
        given.assistant.weave(sample(number, words), given.options)
        for words in ("", "? And what is behind it, as far as one can tell?")
    ]
    return first_token(given, core, two[0]), first_token(given, core, two[1])


def prefill(given: Work) -> tuple[float, float]:
    """Seconds for reading a prompt: the model's forward, and the engine to its first token."""
    batch = given.assistant.batch(given.woven[:1])

    def forward() -> None:
        with torch.inference_mode():
            given.assistant.model(**batch.inputs(), use_cache=True, logits_to_keep=1)

    core = Core(given.assistant.model, Limits(), given.assistant.decoder.runner)
    return seconds(forward), first_token(given, core, given.woven[0])


def ratio(pairs: Sequence[tuple[float, float]]) -> dict[str, float]:
    """First over second of each round: median and middle half."""
    low, middle, high = spread([a / b for a, b in pairs])
    return {"median": round(middle, 2), "low": round(low, 2), "high": round(high, 2)}


def measure(given: Work, clients: Sequence[int], rounds: int) -> list[dict[str, object]]:
    """Every line of the table; both sides of each turn about."""
    tokens = given.options.max_new_tokens
    lines: list[dict[str, object]] = []

    def line(name: str, pairs: list[tuple[float, float]], **words: object) -> None:
        lines.append({"name": name, **ratio(pairs), **words})
        print(lines[-1], flush=True)

    prefill(given)
    line("prefill: torch over engine", [prefill(given) for _ in range(rounds)])
    line(
        "first token: first question over second, on one picture",
        [second_question(given, 100 + i) for i in range(rounds)],
    )
    for count in clients:
        ways = {
            "generate one at a time": lambda n=count: by_generate(given, n, False),
            "generate in one padded batch": lambda n=count: by_generate(given, n, True),
            "server over engine": lambda n=count: by_server(given, n),
        }
        ours = by_engine(given, count)
        took: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        alike = {
            name: sum(a == b for a, b in zip(run(), ours, strict=True))
            for name, run in ways.items()
        }
        for _ in range(rounds):
            own = seconds(lambda n=count: by_engine(given, n))
            for name, run in ways.items():
                took[name].append((seconds(run), own))
        speed = statistics.median(count * tokens / own for _, own in took["server over engine"])
        for name, pairs in took.items():
            line(
                f"{count} clients: {name}",
                pairs,
                engine_tokens_per_second=round(speed, 1),
                equal=f"{alike[name]} of {count}",
            )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    lines.append({"name": "peak memory of all of this, MiB", "median": peak // 1024})
    return lines


def table(lines: Sequence[dict[str, object]]) -> str:
    """The lines as Markdown."""
    rows = ["| what | ratio | middle half | engine tok/s | equal ids |", "|---|---|---|---|---|"]
    for one in lines:
        half = f"{one['low']} to {one['high']}" if "low" in one else ""
        words = (one.get(word, "") for word in ("engine_tokens_per_second", "equal"))
        rows.append(f"| {one['name']} | {one['median']} | {half} | {' | '.join(map(str, words))} |")
    return "\n".join(rows) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="times that each line is run")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16, 32])
    parser.add_argument("--out", type=Path, help="folder for serve.md and serve.json")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    asked = parser.parse_args()
    given = work(count=max(asked.clients), device=asked.device)
    print(f"{len(given.woven[0])} tokens in, {given.options.max_new_tokens} out", flush=True)
    lines = measure(given, asked.clients, asked.rounds)
    print(table(lines))
    if asked.out is not None:
        asked.out.mkdir(parents=True, exist_ok=True)
        name = "serve" if asked.device == "cpu" else f"serve-{asked.device}"
        (asked.out / f"{name}.md").write_text(table(lines))
        (asked.out / f"{name}.json").write_text(json.dumps(lines, indent=1) + "\n")


if __name__ == "__main__":
    main()
