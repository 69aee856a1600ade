"""SPHINX's cases: what is written, streamed, scored."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from transformers import TopPLogitsWarper

from omnimix.convert.report import Check, close, number, same
from omnimix.families.sphinx.face import shown, stop_sequences
from omnimix.types import Sample, Turn
from omnimix_golden.case import awaits_answer
from omnimix_golden.sphinx.case import SphinxCase
from omnimix_golden.sphinx.model import passed

ROUNDED = 0.5e-4
"""Scores are stated with four decimals."""


def stops(reading: SphinxCase) -> Iterator[Check]:
    """Token sequences that end an answer."""
    facts = reading.facts()["stop"]
    found = stop_sequences(reading.loaded()[1].tokenizer, [facts["signal"]])
    yield same("stops", facts["signal"], found, facts["stop_token_sequences"])


def answers(reading: SphinxCase) -> Iterator[Check]:
    """Prompts, logits of every step, greedy ids and texts, one request after another."""
    for i, facts in enumerate(reading.facts()["generate"]):
        name = f"request {i + 1}"
        sample = reading.question(facts, name)
        yield from prompt(reading, sample, facts["prompt"], facts.get("prompt_tokens"), name)
        if not awaits_answer(sample):
            continue
        temperature = float(facts.get("temperature", 0.0))
        options = reading.model.options(facts["max_gen_len"], temperature)
        ((ids, kept),) = reading.model.written([sample], options)
        yield from step_logits(reading, sample, facts["sampled_ids"], f"gen.{i}", name)
        yield same("greedy ids", name, ids, facts["sampled_ids"])
        yield same("greedy ids", f"{name}: kept", kept, facts["kept_ids"])
        text = reading.model.generate_responses([sample], facts["max_gen_len"], temperature)[0]
        yield same("text", name, text, facts["text"])


def prompt(
    reading: SphinxCase, sample: Sample, wanted: str, ids: list[int] | None, name: str
) -> Iterator[Check]:
    """The prompt's text and ids."""
    _, processor = reading.loaded()
    plain = Sample(tuple(Turn(turn.role, (turn.text(),)) for turn in sample.turns), name)
    yield same("prompt", name, processor.recipe.template.text(plain, awaits_answer(plain)), wanted)
    if ids is not None:
        woven = processor.weave(sample, awaits_answer(sample))
        yield same("ids", name, woven.ids[woven.owner == 0].tolist(), ids)


def step_logits(
    reading: SphinxCase, sample: Sample, sampled: list[int], key: str, name: str
) -> Iterator[Check]:
    """Logits of every step; the reference takes them with a cache, here they are one forward."""
    wanted = reading.case.get(f"{key}.step_logits")
    if wanted is None:
        return
    model, processor = reading.loaded()
    batch = processor.batch([processor.weave(sample, True)])
    steps = torch.tensor([sampled[: len(wanted) - 1]], dtype=torch.int64)
    with torch.inference_mode():
        prompt = model.embed(batch.input_ids, batch.items)
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
    options = reading.model.options(facts["max_gen_len"], 0.0)
    kept = [ids for _, ids in reading.model.written(samples, options)]
    yield same("greedy ids", "batch", kept, facts["kept_ids"])
    texts = reading.model.generate_responses(samples, facts["max_gen_len"], 0.0)
    yield same("text", "batch", texts, facts["texts"])


def stream(reading: SphinxCase) -> Iterator[Check]:
    """What a page shows while an answer grows."""
    facts = reading.facts()["stream"]
    raw = list(reading.model.stream_generate(reading.question(facts), facts["max_gen_len"], 0.0))
    if "n_raw" in facts:
        yield same("stream", "parts", len(raw), facts["n_raw"])
    yield same("stream", "shown", list(shown(iter(raw))), facts["shown"])


def scores(reading: SphinxCase) -> Iterator[Check]:
    """How likely each option is as an answer."""
    facts = reading.facts()["score"]
    question = facts.get("question") or reading.request["score"]["question"]
    sample = reading.question({"qas": [[question, None]], "image": facts["image"]})
    yield from prompt(reading, sample, facts["context"], None, "scores")
    found = reading.model.evaluate_examples(sample, facts["options"])
    tolerance = reading.tolerance() + ROUNDED
    for i, score in enumerate(found):
        name = f"option {i + 1}"
        likely = facts["log_likelihood"][i]
        yield number("scores", f"{name}: sum", score.log_likelihood, likely, tolerance)
        yield number("scores", f"{name}: mean", score.mean_nll, facts["mean_nll"][i], tolerance)
        yield same("scores", f"{name}: greedy", score.greedy, facts["max_equal"][i])


def nucleus(reading: SphinxCase) -> Iterator[Check]:
    """Which tokens sampling with top-p chooses from, for the last row of the conversation's logits."""
    facts = reading.facts()
    model, processor = reading.loaded()
    batch = processor.batch([processor.weave(reading.finished(facts["conv"]))])
    # The golden halves the logits and takes temperature 0.9, so that more than one token is left.
    flat = passed(model, batch)[2][:, -1] * 0.5 / 0.9
    left = TopPLogitsWarper(top_p=0.5)(batch.input_ids, flat)[0]
    kept = torch.isfinite(left).nonzero()[:, 0].tolist()
    yield same("top-p", "kept", kept, facts["top_p"]["kept"])
