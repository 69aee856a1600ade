"""Prismatic's cases: what a checkpoint answers, and one labelled batch with its gradients."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from omnimix.compose.sequence import Sequence
from omnimix.convert.report import Check, close, number, same
from omnimix.data.llava import LlavaRecords
from omnimix.families.prismatic.names import parameter_names
from omnimix.families.prismatic.prompted import Prompted
from omnimix.families.prismatic.recipe import VISION
from omnimix.generate.assistant import Assistant
from omnimix.train import optim
from omnimix.types import Media, Sample, Turn
from omnimix_golden.case import awaits_answer
from omnimix_golden.look import Seen, columns, forward
from omnimix_golden.prismatic.batch import collated, pictured
from omnimix_golden.prismatic.case import PrismaticCase
from omnimix_golden.prismatic.train import LEARNS

_EMBEDDING = "language.model.embed_tokens.weight"


def vocabulary(reading: PrismaticCase) -> Iterator[Check]:
    """Rows of the embeddings and the pad token."""
    model, processor = reading.loaded
    facts = {
        "tokenizer_length_with_pad": processor.weave.tokenizer.size,
        "pad_token_id": processor.weave.tokenizer.pad,
        "embedding_rows_after_resize": int(model.state_dict()[_EMBEDDING].shape[0]),
    }
    for word, found in facts.items():
        if reading.expected("llm", word) is not None:
            yield same("vocabulary", word, found, reading.expected("llm", word))
    if reading.expected("num_patches") is not None:
        tiles = model.tokens_per_tile["image"]
        yield same("vocabulary", "num_patches", tiles, reading.expected("num_patches"))


def single_tokens(reading: PrismaticCase) -> Iterator[Check]:
    """Words that must be one token each."""
    tokenizer = reading.loaded[1].weave.tokenizer
    for word, expected in reading.expected("string_token_ids").items():
        yield same("vocabulary", word, tokenizer.encode(word)[0], [expected])


@dataclass
class _Request:
    """A request, what it weaves to and (later) what its forward shows."""

    name: str
    facts: dict[str, Any]
    sample: Sample
    woven: Sequence
    seen: Seen


def requests(reading: PrismaticCase) -> Iterator[Check]:
    """Prompt, ids, pixels, features, projected patches, embeddings, logits and answers."""
    case = reading.case
    model, processor = reading.loaded
    template = processor.recipe.template
    found = []
    for i, facts in enumerate(reading.expected("requests")):
        sample = _sample(reading, facts, f"req{i}")
        woven = processor.weave(sample, awaits_answer(sample))
        found.append(_Request(f"req{i}", facts, sample, woven, Seen()))
    for one in found:
        texts = [part.replace("<image>", "") for part in one.facts["turns"]]
        asked = _sample(reading, {**one.facts, "turns": texts, "image": None}, one.name)
        yield same(
            "prompt", one.name, template.text(asked, awaits_answer(asked)), one.facts["prompt"]
        )
        if one.facts.get("wrapped_turns") is not None:
            yield same(
                "prompt",
                one.name,
                template.wrapped(asked, awaits_answer(asked)),
                one.facts["wrapped_turns"],
            )
        preview = one.facts.get("potential_prompt_for_next_human_turn_HELLO")
        if preview is not None:
            shown = template.preview(asked, "HELLO")
            yield same("prompt", f"{one.name} preview", shown, preview)
    for one in found:
        ids = one.woven.ids[one.woven.owner == 0].tolist()
        yield same("ids", one.name, ids, one.facts["input_ids"])
        stored = case.get(f"{one.name}/input_ids")
        if stored is not None:
            yield same("ids", one.name, ids, stored)
        counts = {"n_text_tokens": len(ids), "sequence_length": len(one.woven)}
        counts["n_visual_tokens"] = len(one.woven) - len(ids)
        for word, count in counts.items():
            if one.facts.get(word) is not None:
                yield same("ids", f"{one.name} {word}", count, one.facts[word])
        with torch.inference_mode():
            one.seen = forward(model, processor.batch([one.woven], "left"))
    for stage in (_pixels, _features, _embeddings, _logits, _answers, _choices):
        for one in found:
            yield from stage(reading, one)


def _sample(reading: PrismaticCase, facts: dict[str, Any], name: str) -> Sample:
    """A request as a conversation; the picture belongs to its first question."""
    turns: list[Turn] = []
    if facts.get("system_prompt") is not None:
        turns.append(Turn("system", (facts["system_prompt"],)))
    for j, text in enumerate(facts["turns"]):
        content: tuple[Any, ...] = (text.replace("<image>", ""),)
        if j == 0 and facts.get("image"):
            content = (Media.image(str(reading.inputs / facts["image"])), *content)
        turns.append(Turn(("user", "assistant")[j % 2], content))
    return Sample(tuple(turns), name)


def streams(reading: PrismaticCase) -> list[str]:
    """How the goldens name the encoders: `featurizer`, or the names inside a pair."""
    names = list(VISION[reading.last.section["vision_backbone_id"]][1])
    return ["featurizer"] if names == ["vision"] else names


def _pixels(reading: PrismaticCase, one: _Request) -> Iterator[Check]:
    tolerance = reading.case.tolerance("pixel_values")
    for i, stream in enumerate(streams(reading)):
        for name in (f"{one.name}/pixel_values/{stream}", f"{one.name}/pixel_values"):
            expected = reading.case.get(name)
            if expected is not None:
                yield close("pixels", name, one.seen.pixels[i][0], expected, tolerance)


def _features(reading: PrismaticCase, one: _Request) -> Iterator[Check]:
    if not one.seen.features:
        return
    tolerance = reading.case.tolerance("features")
    rows = {s: one.seen.features[i] for i, s in enumerate(streams(reading))}
    for name, found in rows.items():
        expected = reading.case.get(f"{one.name}/features/{name}")
        if expected is not None:
            yield close("features", f"{one.name} {name}", found[0], expected, tolerance)
    for name, stage, given in (
        ("fused", "features", one.seen.mixed),
        ("projected", "connector tokens", one.seen.connected),
    ):
        expected = reading.case.get(f"{one.name}/features/{name}")
        if expected is not None:
            assert given is not None
            yield close(stage, f"{one.name} {name}", given[0], expected, tolerance)


def _embeddings(reading: PrismaticCase, one: _Request) -> Iterator[Check]:
    expected = reading.case.get(f"{one.name}/inputs_embeds")
    if expected is not None:
        assert one.seen.embeddings is not None
        tolerance = reading.case.tolerance("inputs_embeds", "features")
        yield close("embeddings", one.name, one.seen.embeddings[0], expected, tolerance)


def _logits(reading: PrismaticCase, one: _Request) -> Iterator[Check]:
    assert one.seen.logits is not None
    logits = one.seen.logits[0]
    tolerance = reading.case.tolerance("logits")
    text = torch.from_numpy(one.woven.owner == 0)
    for name, found in (("last", logits[-1]), ("text", logits[text]), ("strided", logits)):
        expected = reading.case.get(f"{one.name}/logits_{name}")
        if expected is not None:
            thin = columns(found, expected.shape[-1])
            yield close("logits", f"{one.name} {name}", thin, expected, tolerance)


def _answers(reading: PrismaticCase, one: _Request) -> Iterator[Check]:
    words = reading.expected("generation") or {}
    if words.get("do_sample") or one.facts.get("generated_ids") is None:
        return
    assistant = Assistant(*reading.loaded)
    least = max(0, int(words.get("min_length") or 0) - len(one.facts["input_ids"]))
    answer = assistant.reply(
        one.sample,
        max_new_tokens=int(words.get("max_new_tokens") or len(one.facts["generated_ids"])),
        min_new_tokens=least,
    )
    yield same("answers", f"{one.name} ids", list(answer.ids), one.facts["generated_ids"])
    stored = reading.case.get(f"{one.name}/generated_ids")
    if stored is not None:
        yield same("answers", f"{one.name} ids", list(answer.ids), stored)
    if one.facts.get("generated_text") is not None:
        yield same("answers", f"{one.name} text", answer.text, one.facts["generated_text"])


def _choices(reading: PrismaticCase, one: _Request) -> Iterator[Check]:
    prompted = Prompted(Assistant(*reading.loaded))
    for words, expected in (one.facts.get("string_probabilities") or {}).items():
        found = torch.tensor(prompted.probabilities(one.sample, words.split("|")))
        yield close(
            "probabilities",
            f"{one.name} {words}",
            found,
            torch.tensor(expected),
            reading.case.tolerance("string_probabilities", "logits"),
        )


def batch(reading: PrismaticCase) -> Iterator[Check]:
    """A few records through dataset, collator, forward and backward."""
    case = reading.case
    model, processor = reading.loaded
    rows = reading.expected("batch", "rows_of_instruct_json")
    source = LlavaRecords(path="instruct.json", marks="loose").open(reading.inputs)
    woven = [processor.weave(source[row], max_length=reading.length, target=False) for row in rows]
    yield from collated(reading, woven, "expected", "batch")
    given = processor.batch(woven)
    optim.set_trainable(model, LEARNS["finetune"])
    seen = forward(model, given, given.labels)
    assert seen.loss is not None and seen.logits is not None and seen.embeddings is not None
    yield from _fused(reading, woven, seen)
    loss = float(seen.loss.detach())
    yield number("loss", "batch", loss, reading.expected("batch", "loss"), case.tolerance("loss"))
    seen.loss.backward()
    tolerance = case.tolerance("gradients")
    stored = list(case.names("batch/grad/"))
    ours, _ = parameter_names(processor.recipe, stored)
    parameters = dict(model.named_parameters())
    for name in stored:
        expected = case.get(f"batch/grad/{name}")
        assert expected is not None
        grad = parameters[ours[name]].grad if name in ours else None
        yield close("gradients", name, grad, expected, tolerance)
    norms = reading.expected("batch", "grad_norms") or {}
    ours, _ = parameter_names(processor.recipe, norms)
    for name, expected in norms.items():
        grad = parameters[ours[name]].grad if name in ours else None
        found = float("nan") if grad is None else float(grad.norm())
        yield number("gradients", f"norm of {name}", found, expected, _norms(reading))
    model.zero_grad(set_to_none=True)


def _norms(reading: PrismaticCase) -> float:
    return reading.case.tolerance("training_grad_norm", "gradients")


def _fused(reading: PrismaticCase, woven: list[Sequence], seen: Seen) -> Iterator[Check]:
    """Embeddings and logits in the reference's order: rows with a picture first."""
    case = reading.case
    order = [*pictured(woven), *(i for i in range(len(woven)) if i not in pictured(woven))]
    mask = case.get("batch/fused_attention_mask")
    if mask is not None:
        lengths = [len(woven[i]) for i in order]
        yield same("embeddings", "batch lengths", mask.long().sum(1), lengths)
    assert seen.logits is not None and seen.embeddings is not None
    for word, stage, rows, tolerance in (
        (
            "fused_embeds",
            "embeddings",
            seen.embeddings,
            case.tolerance("inputs_embeds", "features"),
        ),
        ("logits_strided", "logits", seen.logits, case.tolerance("logits")),
    ):
        expected = case.get(f"batch/{word}")
        if expected is None:
            continue
        for row, i in enumerate(order):
            long = len(woven[i])
            thin = columns(rows[i, :long], expected.shape[-1])
            yield close(stage, f"batch row {row}", thin, expected[row, :long], tolerance)
