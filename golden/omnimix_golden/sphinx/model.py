"""SPHINX's cases: shards, pictures, encoders, and a conversation up to its logits."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from omnimix.checkpoints import tables
from omnimix.checkpoints.base import Parts
from omnimix.compose.batch import Batch
from omnimix.compose.modality import Branch
from omnimix.compose.model import MultimodalLM
from omnimix.convert.report import Check, close, same
from omnimix.families.sphinx import folder as sphinx, names, shards
from omnimix.media.image import ImageOpener
from omnimix.media.tensor_steps import Quadrants
from omnimix.media.tiles import Tiles
from omnimix.types import Media, Sample, Turn
from omnimix_golden.case import awaits_answer
from omnimix_golden.parts import parts_of
from omnimix_golden.sphinx.case import SphinxCase


def layouts(reading: SphinxCase) -> Iterator[Check]:
    """What was found in the folder, against what the case says of it."""
    facts, release = reading.case.facts, reading.release
    folder = reading.layout
    if "model_parallel_shards" in facts:
        yield same("folder", "shards", len(folder.files), facts["model_parallel_shards"])
    found = release.recipe.language.config
    known = {
        "dim": "hidden_size",
        "n_layers": "num_hidden_layers",
        "n_heads": "num_attention_heads",
        "norm_eps": "rms_norm_eps",
    }
    for word, ours in known.items():
        if word in facts.get("config_used", {}):
            yield same("folder", word, found[ours], facts["config_used"][word])


# --- pictures ---

_STRIDED = re.compile(r"pre\.norm_s(\d+)\.(.+)")


def pictures(reading: SphinxCase) -> Iterator[Check]:
    """Every prepared picture: bytes after the resize, and normalised numbers."""
    spec = reading.release.recipe.modalities["image"]
    exact = reading.tolerance("pixels")
    for name in sorted(reading.case.facts["tensors"]):
        wide = _STRIDED.fullmatch(name)
        if not name.startswith("pre.u8.") and wide is None:
            continue
        wanted = reading.case.get(name)
        if wanted is None:
            continue
        file = wide[2] if wide else name.removeprefix("pre.u8.")
        opened = ImageOpener().open(Media.image(str(reading.inputs / file)))
        tiles = Tiles.of(opened)
        for step in spec.steps:
            if isinstance(step, Quadrants) or (not wide and step.works_on == "tensor"):
                break
            tiles = step(tiles)
        found = tiles.tensor()[0]
        if wide:
            stride = int(wide[1])
            some = found[:, ::stride, ::stride]
            yield close("pixels", name, some, wanted, reading.tolerance())
        else:
            yield close("pixels", name, found.permute(1, 2, 0), wanted, exact)


def features(reading: SphinxCase, batch: Batch) -> Iterator[Check]:
    """What the encoders were given and what they gave for the picture of a conversation."""
    case, tolerance = reading.case, reading.tolerance()
    model, _ = reading.loaded()
    tiles = batch["items"]["image"].inputs[0]
    wanted = case.get("pre.thumb224_half_s2")
    if wanted is not None:
        found = tiles[0, :, ::2, ::2].to(wanted.dtype)
        yield close("pixels", "thumbnail", found, wanted, reading.tolerance("pixels"))
    asks, mix = model.modality("image").branches
    assert isinstance(asks, Branch) and isinstance(mix, Branch)
    wanted = case.get("pre.convnext256_s8")
    if wanted is not None:
        seen = tiles[:1]
        for step in mix.device_steps[1]:
            seen = step.on_tensor(seen)  # type: ignore[attr-defined]
        found = seen[0, :, ::8, ::8].to(wanted.dtype)
        yield close("pixels", "ConvNeXt's", found, wanted, reading.tolerance("pixels"))
    with torch.inference_mode():
        wanted = case.get("feat.qformer")
        if wanted is not None:
            yield close("features", "Q-Former", asks.encode(0, tiles, None), wanted, tolerance)
        parts = [mix.finishes[i](mix.encode(i, tiles, None)) for i in range(len(mix.encoders))]
        wanted = case.get("feat.ens")
        if wanted is not None:
            views = _views(reading, "feat.ens", len(wanted))
            found = torch.cat(parts, dim=-1)[views]
            yield close("features", "CLIP, ConvNeXt, DINOv2", found, wanted, tolerance)
        wanted = case.get("visual_tokens")
        if wanted is not None:
            tokens = model.modality("image")(batch["items"]["image"]).tokens
            framed = tokens.unflatten(0, (len(tiles), -1))
            yield close("connector tokens", "views", framed[:, 1:-1], wanted, tolerance)
    wanted = case.get("alt.clip_quickgelu_view0")
    if wanted is not None:
        yield close("features", "CLIP with QuickGELU", quick(reading, tiles[:1]), wanted, tolerance)


def _views(reading: SphinxCase, name: str, count: int) -> list[int]:
    """Which views a golden tensor holds, as its meaning says."""
    meaning = str(reading.case.facts["tensors"][name].get("meaning", ""))
    found = re.match(r"views \[([\d, ]+)\]", meaning)
    return [int(i) for i in found[1].split(",")] if found else list(range(count))


def quick(reading: SphinxCase, tiles: Tensor) -> Tensor:
    """CLIP's features with the other activation, from a model opened so."""
    release = sphinx.SphinxFamily().open(
        reading.layout,
        _with_word(reading, "clip_activation", "quick_gelu"),
    )
    spec = release.recipe.modalities["image"].branches[1].encoders[0]
    encoder = spec.build().eval()
    model, _ = reading.loaded()
    prefix = "image.branches.1.encoders.0."
    state = model.state_dict()
    encoder.load_state_dict(
        {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    )
    with torch.inference_mode():
        found: Tensor = encoder(tiles)
    return found


def _with_word(reading: SphinxCase, word: str, value: Any) -> Any:
    parts = parts_of(reading.case.folder, reading.case.facts)
    return Parts(parts.places, {**parts.words, word: value})


# --- a conversation ---


def conversation(reading: SphinxCase) -> Iterator[Check]:
    """Prompt, ids, features, embeddings, last states, logits."""
    facts, case = reading.facts()["conv"], reading.case
    model, processor = reading.loaded()
    sample = reading.question(facts)
    words = Sample(tuple(Turn(turn.role, (turn.text(),)) for turn in sample.turns), sample.id)
    yield same(
        "prompt",
        "conversation",
        processor.recipe.template.text(words, awaits_answer(sample)),
        facts["text"],
    )
    woven = processor.weave(sample, awaits_answer(sample))
    ids = woven.ids[woven.owner == 0].tolist()
    yield same("ids", "conversation", ids, facts["tokens"])
    batch = processor.batch([woven])
    if "image" in batch["items"]:
        yield from features(reading, batch)
    embeddings, states, logits = passed(model, batch)
    count = len(ids)
    for stage, name, found in (
        ("embeddings", "embeds", embeddings),
        ("states", "hidden_last_text", states[:, -count:]),
        # The reference's rows begin at the last place before the text.
        ("logits", "logits", logits[0, -count:]),
    ):
        wanted = case.get(name)
        if wanted is not None:
            yield close(stage, "conversation", found, wanted, reading.tolerance(name))


def together(reading: SphinxCase) -> Iterator[Check]:
    """Logits of several conversations in one batch, each with marks of its own kind or without a picture."""
    asked = reading.request.get("batch_logits") or reading.facts().get("batch_logits")
    if not asked:
        return
    model, processor = reading.loaded()
    items = asked["items"] if isinstance(asked, Mapping) else asked
    # A number is that of a request.
    items = [reading.request["generate"][one] if isinstance(one, int) else one for one in items]
    samples = [reading.question(one, f"item {i + 1}") for i, one in enumerate(items)]
    woven = [processor.weave(sample, awaits_answer(sample)) for sample in samples]
    logits = passed(model, processor.batch(woven))[2]
    whole = next(
        (w for n in ("batch.logits", "batch_logits") if (w := reading.case.get(n)) is not None),
        None,
    )
    for i, sequence in enumerate(woven):
        count = int((sequence.owner == 0).sum())
        wanted = reading.case.get(f"batch.{i}.logits") if whole is None else whole[i]
        if wanted is not None:
            rows = logits[i, len(sequence) - count : len(sequence)]
            yield close(
                "logits", f"batch, item {i + 1}", rows, wanted[:count], reading.tolerance("logits")
            )


def passed(model: MultimodalLM, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings, states behind the last norm, and logits of a forward."""
    seen: dict[str, Tensor] = {}

    def language(_: Any, __: Any, words: dict[str, Any]) -> None:
        seen["embeddings"] = words["inputs_embeds"]

    def norm(_: Any, __: Any, gave: Tensor) -> None:
        seen["states"] = gave

    handles = [
        model.language.register_forward_pre_hook(language, with_kwargs=True),
        model.language.model.norm.register_forward_hook(norm),
    ]
    try:
        with torch.inference_mode():
            logits = model(**batch.inputs()).logits
    finally:
        for handle in handles:
            handle.remove()
    return seen["embeddings"], seen["states"], logits


def mixed(reading: SphinxCase) -> Iterator[Check]:
    """Two checkpoints mixed weight by weight: the conversation's logits."""
    facts = reading.facts()
    model, processor = reading.loaded()
    own = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    folder = shards.look(reading.inputs / "mix_b")
    assert folder is not None
    stored, _ = shards.whole([folder])
    plan = names.table(reading.release.recipe).reading(stored)
    yield same("mix", "keys", len(stored), facts["mix"]["keys"])
    other = tables.read(plan, stored)
    batch = processor.batch([processor.weave(reading.question(facts["conv"]))])
    count = len(facts["conv"]["tokens"])
    try:
        for name in reading.case.names("mix.logits_beta"):
            wanted = reading.case.get(f"mix.logits_beta{name}")
            assert wanted is not None
            beta = float(name.removesuffix("_last"))
            soup = {k: beta * own[k] + (1 - beta) * t.float() for k, t in other.items()}
            model.load_state_dict({**own, **soup})
            rows = passed(model, batch)[2][0, -count:]
            found = rows[-1] if name.endswith("_last") else rows
            yield close("mix", f"logits, {name}", found, wanted, reading.tolerance("logits"))
    finally:
        model.load_state_dict(own)
