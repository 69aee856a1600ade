"""Prismatic's cases without a checkpoint: prompts, dataset ids and labels, collator, samplers, rates."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from omnimix.checkpoints.base import read_json
from omnimix.compose.batch import collate
from omnimix.compose.processor import Processor
from omnimix.compose.sequence import Item, Sequence, cut_text
from omnimix.convert.report import Check, number, same
from omnimix.data import orders
from omnimix.data.llava import LlavaRecords
from omnimix.data.ordered import horizon
from omnimix.data.sources import Source
from omnimix.errors import CheckpointError, TrainError
from omnimix.families.prismatic.recipe import LLMS, Words, recipe, tokenizer
from omnimix.prompts.template import Template, named
from omnimix.train import optim
from omnimix.train.settings import ScheduleSpec
from omnimix.types import Sample, Turn
from omnimix_golden.prismatic.case import PrismaticCase

STYLES = {
    "pure": "pure",
    "llama2-chat": "llama2_chat",
    "vicuna-v15": "vicuna_v15",
    "mistral-instruct": "mistral_prismatic",
    "phi-2": "phi",
    "phi": "phi",
}
"""The reference's prompt builders to our templates."""

_TIDY = "clean_up_tokenization_spaces"

_TINY = {
    "model_type": "llama",
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
}


def _style(builder: str) -> Template:
    if builder not in STYLES:
        raise CheckpointError(
            f"the case uses an unknown prompt builder {builder!r}",
            hint=f"known are {', '.join(STYLES)}",
        )
    return named(STYLES[builder])


@cache
def processor(folder: Path, pad: str) -> Processor:
    """A processor around a tokenizer of the case; the model behind it is a stand-in of no weight."""
    llm = next(name for name, words in LLMS.items() if words.pad == pad)
    tidy = bool(
        (read_json(folder / "tokenizer_config.json") or {}).get(_TIDY, not LLMS[llm].own_begin)
    )
    words = Words(
        folder.name,
        "clip-vit-l",
        llm,
        "linear",
        "resize-naive",
        10**6,
        llm=_TINY,
        tokens=tokenizer(LLMS[llm], tidy).load([folder]).size,
        tidy=tidy,
        patches=4,
        image_size=28,
        vision={"vision": {"embed_dim": 8, "depth": 2, "num_heads": 1}},
    )
    return Processor.from_recipe(recipe(words), folder)


def _of(reading: PrismaticCase, name: str, style: Template | None = None) -> Processor:
    """The processor of a tokenizer that the case names."""
    pad = reading.expected("tokenizers", name, "pad_token")
    if pad is None:
        raise CheckpointError(
            f"the case uses the tokenizer {name!r}, which it does not describe",
            where=str(reading.case.folder / "case.json"),
        )
    found = processor(reading.case.folder / "tokenizers" / name, pad)
    return found if style is None else found.with_template(style)


def tokenizers(reading: PrismaticCase) -> Iterator[Check]:
    """Lengths and special tokens."""
    for name, facts in reading.expected("tokenizers").items():
        tokenizer = _of(reading, name).weave.tokenizer
        # A tokenizer of Phi's type has a begin token that it never writes by itself; here it has none.
        begin = tokenizer.bos if tokenizer.bos is not None else tokenizer.eos
        found = {
            "length_with_pad": tokenizer.size,
            "pad_token_id": tokenizer.pad,
            "bos_token_id": begin,
            "eos_token_id": tokenizer.eos,
        }
        for word, value in found.items():
            if word in facts:
                yield same("tokenizers", f"{name} {word}", value, facts[word])


def default_systems(reading: PrismaticCase) -> Iterator[Check]:
    """The system text where nobody gives one, as it is written into the first turn."""
    for builder, expected in reading.expected("default_system_prompts").items():
        asked = Sample((Turn("user", ("?",)),), builder)
        text = _style(builder).wrapped(asked, True)[0]
        yield same("prompt", f"default system of {builder}", expected in text, True)


def prompts(reading: PrismaticCase) -> Iterator[Check]:
    """Every turn as it is wrapped, the prompt so far, the preview, and the ids of the whole."""
    for n, facts in enumerate(reading.expected("prompts")):
        style = _style(facts["builder"])
        what = f"{n} ({facts['builder']})"
        turns: list[Turn] = []
        if facts.get("system_prompt") is not None:
            turns.append(Turn("system", (facts["system_prompt"],)))
        for turn in facts["turns"]:
            asked = turn["role"] == "human"
            preview = turn.get("potential_prompt_before")
            if asked and preview is not None:
                so_far = Sample(tuple(turns), what) if turns else None
                found = style.preview(so_far, turn["message"])
                yield same("prompt", f"{what} preview", found, preview)
            message = turn["message"].replace("<image>", "")
            turns.append(Turn("user" if asked else "assistant", (message,)))
            sample = Sample(tuple(turns), what)
            yield same("prompt", what, style.wrapped(sample, asked)[-1], turn["wrapped"])
            yield same("prompt", what, style.text(sample, asked), turn["prompt_after"])
        sample = Sample(tuple(turns), what)
        open_answer = turns[-1].role == "user"
        text = style.text(sample, open_answer)
        yield same("prompt", what, text, facts["final_prompt"])
        if facts.get("tokenizer"):
            tokenizer = _of(reading, facts["tokenizer"]).weave.tokenizer
            begin = [] if tokenizer.bos is None else [tokenizer.bos]
            yield same("ids", what, begin + tokenizer.encode(text)[0], facts["input_ids"])
            if open_answer:
                woven = _of(reading, facts["tokenizer"], style).weave(sample, True)
                yield same("ids", f"{what} woven", woven.ids.tolist(), facts["input_ids"])


def finetune(reading: PrismaticCase) -> Iterator[Check]:
    """Ids and labels of the finetune dataset, and the word counts that its sampler goes by."""
    source = _source(reading, "instruct.json")
    for facts in reading.expected("finetune_dataset"):
        made = _of(reading, facts["tokenizer"], _style(facts["builder"]))
        what = f"{facts['builder']}, {facts['tokenizer']}, {facts['model_max_length']}"
        yield from _examples(source, made, facts, what)
        for i, lengths in enumerate(facts.get("modality_lengths") or []):
            yield same("word counts", f"{what}, {i}", list(source.extent(i)), list(lengths))


def align(reading: PrismaticCase) -> Iterator[Check]:
    """Ids and labels of the align dataset."""
    source = _source(reading, "chat.json")
    for facts in reading.expected("align_dataset"):
        made = _of(reading, facts["tokenizer"], named("caption"))
        what = f"align, {facts['tokenizer']}, {facts['model_max_length']}"
        yield from _examples(source, made, facts, what)
        for i, (picture, words) in enumerate(facts.get("modality_lengths_with_100_patches") or []):
            # For this dataset the reference counts the patches and not the mark.
            sample = source[i]
            found = sum(len(turn.text().split()) for turn in sample.turns)
            has = bool(sample.media())
            yield same("word counts", f"{what}, {i}", [has, found + 100 * has], [picture, words])


def _source(reading: PrismaticCase, name: str) -> Source:
    return LlavaRecords(path=name, marks="loose").open(reading.inputs)


def _examples(source: Source, made: Processor, facts: dict[str, Any], what: str) -> Iterator[Check]:
    for i, example in enumerate(facts["examples"]):
        sample = source[i]
        woven = made.weave(sample, max_length=facts["model_max_length"], target=False)
        text = woven.owner == 0
        name = f"{what}, {example.get('id', i)}"
        if "id" in example:
            yield same("dataset ids", name, sample.id, str(example["id"]))
        yield same("dataset ids", name, woven.ids[text].tolist(), example["input_ids"])
        yield same("labels", name, woven.labels[text].tolist(), example["labels"])
        if "has_image" in example:
            has = bool(woven.items.get("image"))
            yield same("dataset ids", f"{name} picture", has, example["has_image"])


def collator(reading: PrismaticCase) -> Iterator[Check]:
    """Rows of any length to one padded batch; rows without a picture have none to fill in."""
    case = reading.case
    first = next(iter(reading.expected("tokenizers")))
    recipe = _of(reading, first).recipe
    for facts in reading.expected("collator"):
        name, pad = facts["name"], facts["pad_token_id"]
        rows = [_row(reading, name, i) for i in range(facts["rows"])]
        cut = [cut_text(row, facts["model_max_length"]) for row in rows]
        batch = collate(cut, recipe, pad)
        ids, labels = batch.input_ids, batch.labels
        pictured = [i for i, row in enumerate(rows) if row.items]
        found: dict[str, Tensor] = {
            "input_ids": ids,
            "labels": labels,
            "attention_mask": (ids != pad).long(),
            "multimodal_indices": torch.tensor(pictured, dtype=torch.long),
        }
        for word, tensor in found.items():
            expected = case.get(f"collator/{name}/out/{word}")
            if expected is not None:
                yield same("collator", f"{name} {word}", tensor.long(), expected.long())
        streams = [key for key in case.names(f"collator/{name}/out/") if "pixel_values" in key]
        for k, stream in enumerate(sorted(streams)):
            expected = case.get(f"collator/{name}/out/{stream}")
            assert expected is not None
            # Ours keeps the pictures alone, one after another; the reference fills up with zeros.
            inputs = batch["items"]["image"].inputs[k] if pictured else expected[:0]
            whole = torch.zeros_like(expected)
            whole[pictured] = inputs
            yield same("collator", f"{name} {stream}", bool(torch.equal(whole, expected)), True)


def _row(reading: PrismaticCase, name: str, i: int) -> Sequence:
    """One row that goes into the collator; its picture takes no place, as in the reference."""
    case, prefix = reading.case, f"collator/{name}/in{i}/"
    words = {key: case.get(prefix + key) for key in case.names(prefix)}
    ids, labels = words["input_ids"], words["labels"]
    assert ids is not None and labels is not None
    keys = sorted(key for key in words if key.startswith("pixel_values"))
    pixels = tuple(words[key][None] for key in keys)  # type: ignore[index]
    return Sequence(
        ids.numpy(),
        labels.numpy(),
        np.zeros(len(ids), dtype=np.int64),
        {"image": [Item(pixels, 0)]} if pixels else {},
        f"{name} row {i}",
    )


def by_modality(reading: PrismaticCase) -> Iterator[Check]:
    """The order of the finetune stage for every rank; where the reference fails, so must we."""
    for n, facts in enumerate(reading.expected("split_modality_sampler")):
        pictures = [bool(picture) for picture, _ in facts["modality_lengths"]]
        words = [int(length) for _, length in facts["modality_lengths"]]
        for key, expected in facts["orders"].items():
            world, rank, epoch = (int(part.lstrip("abcdehklnoprw")) for part in key.split("/"))
            batch, seed = facts["global_batch_size"], facts["seed"]
            try:
                found: Any = orders.by_modality(pictures, words, batch, epoch, seed, rank, world)
            except TrainError:
                found = "refused"
            wanted = expected if isinstance(expected, list) else "refused"
            yield same("order by modality", f"{n}: {key}", found, wanted)


def shuffled(reading: PrismaticCase) -> Iterator[Check]:
    """The order of the align stage."""
    for n, facts in enumerate(reading.expected("align_stage_distributed_sampler")):
        found = orders.shuffled(
            facts["n"], facts["epoch"], facts["seed"], facts["rank"], facts["world"]
        )
        yield same("order shuffled", f"{n}", found, facts["order"])


def rates(reading: PrismaticCase) -> Iterator[Check]:
    """The learning rate of every step, those behind the last planned one included."""
    for n, facts in enumerate(reading.expected("learning_rate")):
        steps = horizon(
            facts["n_examples"],
            facts["global_batch_size"],
            facts.get("epochs"),
            facts.get("max_steps"),
        )
        yield same("rates", f"{n}: steps", steps, facts["num_training_steps"])
        schedule = ScheduleSpec(warmup_ratio=facts["warmup_ratio"], zero_first=True)
        used = facts["lr_used_at_step"]
        for k, expected in enumerate(used):
            found = optim.rate(k, steps, facts["lr"], schedule)
            yield number("rates", f"{n}: step {k}", found, expected, 1e-12)
        for k, expected in enumerate(facts.get("lr_logged_after_step") or []):
            found = optim.rate(k + 1, steps, facts["lr"], schedule)
            yield number("rates", f"{n}: logged after step {k}", found, expected, 1e-12)
