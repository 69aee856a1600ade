"""SPHINX's cases: what is written, streamed, scored."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from transformers import TopPLogitsWarper

from omnimix.convert.report import Check, close, number, same
from omnimix.families.sphinx.conversation import stop_sequences
from omnimix.generate.decoding import Options
from omnimix.types import Sample, Turn
from omnimix_golden.case import awaits_answer
from omnimix_golden.sphinx.case import SphinxCase
from omnimix_golden.sphinx.model import passed

ROUNDED = 0.5e-4
"""Scores are stated with four decimals."""


def stops(reading: SphinxCase) -> Iterator[Check]:
    """Token sequences that end an answer."""
    facts = reading.facts()["stop"]
    found = stop_sequences(reading.loaded()[1].weave.tokenizer, [facts["signal"]])
    yield same("stops", facts["signal"], found, facts["stop_token_sequences"])


def answers(reading: SphinxCase) -> Iterator[Check]:
    """Prompts, logits of every step, greedy ids and texts, one request after another."""
    face = reading.model
    for i, facts in enumerate(reading.facts()["generate"]):
        name = f"request {i + 1}"
        sample = reading.question(facts, name)
        yield from prompt(reading, sample, facts["prompt"], facts.get("prompt_tokens"), name)
        if not awaits_answer(sample) and "sampled_ids" not in facts:
            continue
        options = Options(facts["max_gen_len"], float(facts.get("temperature", 0.0)))
        text = processed(reading, sample)
        ((ids, kept),) = face.written([text], [sample.media()], options, [face.signal])
        yield from step_logits(reading, sample, facts["sampled_ids"], f"gen.{i}", name)
        yield same("greedy ids", name, ids, facts["sampled_ids"])
        yield same("greedy ids", f"{name}: kept", kept, facts["kept_ids"])
        yield same("text", name, face.tokenizer.decode(kept), facts["text"])


def processed(reading: SphinxCase, sample: Sample) -> str:
    """The prompt of a conversation as text."""
    plain = Sample(tuple(Turn(turn.role, (turn.text(),)) for turn in sample.turns), sample.id)
    text: str = reading.loaded()[1].recipe.template.text(plain, awaits_answer(sample))
    return text


def prompt(
    reading: SphinxCase, sample: Sample, wanted: str, ids: list[int] | None, name: str
) -> Iterator[Check]:
    """The prompt's text and ids."""
    yield same("prompt", name, processed(reading, sample), wanted)
    if ids is not None:
        woven = reading.loaded()[1].weave(sample, awaits_answer(sample))
        yield same("ids", name, woven.ids[woven.owner == 0].tolist(), ids)


def step_logits(
    reading: SphinxCase, sample: Sample, sampled: list[int], key: str, name: str
) -> Iterator[Check]:
    """Logits of every step; the reference takes them with a cache, here they are one forward."""
    wanted = reading.case.get(f"{key}.step_logits")
    if wanted is None:
        return
    model, processor = reading.loaded()
    batch = processor.batch([processor.weave(sample, awaits_answer(sample))])
    steps = torch.tensor([sampled[: len(wanted) - 1]], dtype=torch.int64)
    with torch.inference_mode():
        prompt = model.embed(batch.input_ids, batch["items"], batch.item_places)
        table = model.get_input_embeddings()
        whole = torch.cat([prompt, table(steps)], dim=1)
        logits = model(inputs_embeds=whole).logits[0, -len(wanted) :]
    yield close("logits", name, logits, wanted, reading.tolerance("logits"))


def batch(reading: SphinxCase) -> Iterator[Check]:
    """Several requests at once."""
    facts = reading.facts()["batch_generate"]
    samples = [reading.question(item, f"item {i}") for i, item in enumerate(facts["items"], 1)]
    for sample, wanted in zip(samples, facts["prompts"], strict=True):
        yield from prompt(reading, sample, wanted, None, f"batch, {sample.id}")
    face, options = reading.model, Options(facts["max_gen_len"])
    texts, media = [processed(reading, s) for s in samples], [s.media() for s in samples]
    kept = [ids for _, ids in face.written(texts, media, options, [face.signal])]
    yield same("greedy ids", "batch", kept, facts["kept_ids"])
    yield same("text", "batch", [face.tokenizer.decode(ids) for ids in kept], facts["texts"])


def stream(reading: SphinxCase) -> Iterator[Check]:
    """What a page shows while an answer grows."""
    facts = reading.facts()["stream"]
    sample = reading.question(facts)
    text, media = processed(reading, sample), tuple(sample.media())
    raw = list(reading.model.stream_generate(text, media, facts["max_gen_len"]))
    if "n_raw" in facts:
        yield same("stream", "parts", len(raw), facts["n_raw"])
    yield same("stream", "shown", list(shown(iter(raw))), facts["shown"])


HELD = 4
"""Characters that a page holds back while an answer grows, since they may begin the end signal."""


def shown(stream: Iterator[dict[str, Any]], signal: str = "\n###") -> Iterator[dict[str, Any]]:
    """What a page shows of a stream: up to the end signal, the last characters held back until then."""
    for piece in stream:
        text, ended = piece["text"], piece["end_of_content"]
        place = text.find(signal)
        if place >= 0:
            text, ended = text[:place].rstrip() + "\n", True
        if not ended:
            if len(text) < HELD:
                continue
            text = text[:-HELD]
        yield {"text": text, "end_of_content": ended}
        if ended:
            break


def scores(reading: SphinxCase) -> Iterator[Check]:
    """How likely each option is as an answer."""
    facts = reading.facts()["score"]
    question = facts.get("question") or reading.request["score"]["question"]
    sample = reading.question({**facts, "qas": [[question, None]]})
    yield from prompt(reading, sample, facts["context"], None, "scores")
    context, options = processed(reading, sample), facts["options"]
    found = reading.model.evaluate_examples(
        [f"{context} {option}" for option in options],
        [context] * len(options),
        [tuple(sample.media())] * len(options),
    )
    tolerance = reading.tolerance() + ROUNDED
    for word, theirs in (("log_likelihood", "log_likelihood"), ("ppl", "mean_nll")):
        for i, likely in enumerate(found[word]):
            yield number("scores", f"option {i + 1}: {theirs}", likely, facts[theirs][i], tolerance)
    for i, greedy in enumerate(found["max_equal"]):
        yield same("scores", f"option {i + 1}: greedy", greedy, facts["max_equal"][i])


def nucleus(reading: SphinxCase) -> Iterator[Check]:
    """Which tokens sampling with top-p chooses from, for the last row of the conversation's logits."""
    facts = reading.facts()
    model, processor = reading.loaded()
    batch = processor.batch([processor.weave(reading.question(facts["conv"]))])
    # The golden halves the logits and takes temperature 0.9, so that more than one token is left.
    flat = passed(model, batch)[2][:, -1] * 0.5 / 0.9
    left = TopPLogitsWarper(top_p=0.5)(batch.input_ids, flat)[0]
    kept = torch.isfinite(left).nonzero()[:, 0].tolist()
    yield same("top-p", "kept", kept, facts["top_p"]["kept"])
