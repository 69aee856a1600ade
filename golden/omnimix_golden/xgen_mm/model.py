"""xGen-MM's cases: a checkpoint's texts, pictures, answers and layouts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from omnimix.checkpoints import reading as files
from omnimix.compose.batch import Batch
from omnimix.compose.modality import Branch
from omnimix.compose.model import MultimodalLM
from omnimix.compose.processor import Processor
from omnimix.compose.sequence import IGNORE, Sequence as Woven
from omnimix.connectors.arrange import RowBands
from omnimix.convert.report import Check, close, number, same
from omnimix.errors import SampleError
from omnimix.generate.stopping import end_tokens
from omnimix.media.image import ImageOpener
from omnimix.media.tensor_steps import Normalize
from omnimix.media.tiles import Tiles
from omnimix.media.tiling import AnyRes
from omnimix.prompts import template as templates
from omnimix.types import Media, Sample, Turn
from omnimix_golden.rows import stacked, widened
from omnimix_golden.xgen_mm.case import XGenCase


def template(reading: XGenCase) -> Iterator[Check]:
    """Conversations as the notebook writes them."""
    style = templates.named("phi3_notebook")
    for name, wanted in reading.case.facts["conversation_template"].items():
        turns = reading.request["template_turns"][name]
        said = [Turn(role, (text,)) for role, text in turns if text is not None]
        open_answer = turns[-1][1] is None
        found = style.text(Sample(tuple(said), name), open_answer)
        yield same("prompt", name, found, wanted)


def tokenizer(reading: XGenCase) -> Iterator[Check]:
    """Ids of the slow tokenizer, and sizes of the vocabulary."""
    _, processor = reading.loaded()
    for i, case in enumerate(reading.case.facts["tokenizer"]):
        ids, _ = processor.weave.tokenizer.encode(case["text"])
        yield same("ids", f"text {i + 1}", ids, case["slow_ids"])
    sizes = reading.case.facts["config"].get("tokenizer", {})
    if "logits_width" in sizes:
        yield same("ids", "width of logits", processor.weave.tokenizer.size, sizes["logits_width"])
    if "pad" in sizes:
        yield same("ids", "fill token", processor.weave.tokenizer.pad, sizes["pad"])


def conversations(reading: XGenCase) -> Iterator[Check]:
    """Training conversations: prompt, ids, labels."""
    _, processor = reading.loaded()
    for name, facts in reading.case.facts["sft"].items():
        sample = reading.sample(reading.request["sft_conversations"][name], name)
        try:
            woven = reading.taught(sample, processor)
        except SampleError as error:
            # The reference masks such a sample as a whole, here it is refused: neither learns from it.
            wanted = reading.case.get(f"sft/{name}/labels")
            learned = 0 if wanted is None else int((wanted != IGNORE).sum())
            yield same("labels", f"{name} (refused: {error.what})", 0, learned)
            continue
        yield same("prompt", name, reading.shown(sample, processor), facts["prompt"])
        ids, labels = reading.marked(woven, processor)
        counts = {"n_tokens": len(ids), "n_supervised": int((labels != IGNORE).sum())}
        for word, count in counts.items():
            if word in facts:
                stage = "ids" if word == "n_tokens" else "labels"
                yield same(stage, f"{name}: {word}", count, facts[word])
        yield from _ids_and_labels(reading, processor, woven, f"sft/{name}", name)


def _ids_and_labels(
    reading: XGenCase, processor: Processor, woven: Woven, prefix: str, name: str
) -> Iterator[Check]:
    ids, labels = reading.marked(woven, processor)
    for what, found in (("input_ids", ids), ("labels", labels)):
        wanted = reading.case.get(f"{prefix}/{what}")
        if wanted is not None:
            yield same("ids" if what == "input_ids" else "labels", name, found, wanted)


def with_bos(reading: XGenCase) -> Iterator[Check]:
    """A tokenizer that adds a begin token: the same ids behind it; the reference then learns nothing."""
    _, processor = reading.loaded()
    bos = processor.with_template(processor.recipe.template.model_copy(update={"bos": True}))
    for name in reading.case.facts["sft_with_add_bos_token"]:
        sample = reading.sample(reading.request["sft_conversations"][name], name)
        ids, _ = reading.marked(reading.taught(sample, bos), bos)
        wanted = reading.case.get(f"sft_with_bos/{name}/input_ids")
        labels = reading.case.get(f"sft_with_bos/{name}/labels")
        if wanted is None or labels is None:
            continue
        yield same("ids", f"{name}, begin token", ids, wanted)
        learned = int((labels != IGNORE).sum())
        yield same("labels", f"{name}, begin token: learned by the reference", 0, learned)
    reading.notes.append(
        "the reference learns nothing from a tokenizer that adds a begin token; here such samples are "
        "learned like others"
    )


# --- pictures ---


def pictures(reading: XGenCase) -> Iterator[Check]:
    """Every picture: tiles, pixels, features, re-arranged features with their mask, tokens."""
    model, processor = reading.loaded()
    case, tolerance = reading.case, reading.tolerance
    for name, facts in case.facts["images"].items():
        media = Media.image(str(reading.inputs / name))
        woven = processor.weave(Sample((Turn("user", (media,)),), name), True)
        (item,) = woven.items["image"]
        for word, found in (
            ("original_size", list(item.size)),
            ("grid_w_h", list(item.grid)),
            ("n_tiles_with_base", item.tiles),
        ):
            if word in facts:
                yield same("tiles", f"{name}: {word}", found, facts[word])
        best = facts.get("best_resolution")
        if best is not None:
            side = int(item.inputs[0].shape[-1])
            yield same("tiles", f"{name}: pixels", [side * n for n in item.grid], best)
        seen = encoded(model, processor.batch([woven]))
        for key, found_ in (
            (f"pre/{name}/pixel_values", seen["pixels"]),
            (f"vis/{name}/last_hidden_state", seen["features"]),
            (f"vis/{name}/regrouped", seen["arranged"]),
            (f"vis/{name}/mask", seen["mask"]),
            (f"vis/{name}/tokens", seen["tokens"]),
            (f"vis/{name}/tokens_nomask", seen["plain"]),
        ):
            wanted = case.get(key)
            if wanted is None:
                continue
            stage = {"pre": "pixels", "vis": "features"}[key.split("/")[0]]
            stage = "connector tokens" if "tokens" in key else stage
            yield close(
                stage, f"{name} {key.rsplit('/', 1)[1]}", _like(found_, wanted), wanted, tolerance
            )
        if "masked_per_tile" in facts and seen["mask"] is not None:
            hidden = (~seen["mask"].bool()).sum(dim=1)
            yield same("features", f"{name}: hidden", hidden, facts["masked_per_tile"])


def _like(found: Tensor | None, wanted: Tensor) -> Tensor | None:
    """Without a leading dimension of one that the golden tensor does not have, and in its type."""
    if found is None:
        return None
    if found.numel() == wanted.numel():
        found = found.reshape(wanted.shape)
    return found.to(wanted.dtype)


def encoded(model: MultimodalLM, batch: Batch) -> dict[str, Tensor | None]:
    """What happens to the pictures of a batch, stage by stage, by the model's own modules."""
    modality = model.modality("image")
    branch = modality.branches[0]
    assert isinstance(branch, Branch)
    seen: dict[str, Tensor | None] = {"mask": None}

    def before(_: Any, given: tuple[Tensor, ...]) -> None:
        seen["pixels"] = given[0]

    def connector(_: Any, given: tuple[Any, ...], gave: Tensor) -> None:
        seen["arranged"], seen["tokens"] = given[0], gave
        seen["mask"] = given[1] if len(given) > 1 else None

    def finish(_: Any, __: Any, gave: Tensor) -> None:
        seen["features"] = gave

    handles = [
        branch.encoders[0].register_forward_pre_hook(before),
        branch.finishes[0].register_forward_hook(finish),
        branch.connector.register_forward_hook(connector),
    ]
    try:
        with torch.inference_mode():
            modality(batch["items"]["image"])
    finally:
        for handle in handles:
            handle.remove()
    with torch.inference_mode():
        seen["plain"] = branch.connector(seen["arranged"], None)
    return seen


def real_scale(reading: XGenCase) -> Iterator[Check]:
    """Any-res at the release's size: grids, masks, order, pixels."""
    facts, case = reading.case.facts["real_scale"], reading.case
    base, side = facts["base"], facts["tokens_per_side"]
    grids = tuple(tuple(grid) for grid in case.facts["config"]["anyres_grids"])
    step = AnyRes(size=base, grids=grids)
    for name, wanted in facts["best_resolution"].items():
        width, height = map(int, name.split("x"))
        found = [base * count for count in step.best_grid(width, height)]
        yield same("tiles", f"{name} at {base}", found, wanted)
    places = side * side
    for name in case.names("realscale/mask/"):
        size = _pair(name)
        grid = step.best_grid(*size)
        blank = torch.zeros(1 + grid[0] * grid[1], places, 1)
        mask = RowBands()(blank, size, grid)[1]
        yield _exact(case.get(f"realscale/mask/{name}"), mask, "features", f"{name}: mask")
        hidden = (~mask).sum(dim=1)
        wanted = facts.get("masked_per_group", {}).get(name)
        if wanted is not None:
            yield same("features", f"{name}: hidden", hidden, wanted)
    for name in case.names("realscale/regroup_index/"):
        grid = _pair(name)
        count = 1 + grid[0] * grid[1]
        index = torch.arange(float(count * places)).reshape(count, places, 1)
        order = RowBands()(index, grid, grid)[0][..., 0]
        yield _exact(
            case.get(f"realscale/regroup_index/{name}"), order, "features", f"{name}: order"
        )
    pixels = {name.rsplit("/", 1)[0] for name in case.names("realscale/") if name.endswith("_mean")}
    for name in sorted(pixels):
        yield from _scaled(reading, step, name)


def _scaled(reading: XGenCase, step: AnyRes, name: str) -> Iterator[Check]:
    half = Normalize(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    picture = ImageOpener().open(Media.image(str(reading.inputs / name)))
    found = half(step(Tiles.of(picture))).tensor()
    thin = reading.case.get(f"realscale/{name}/every_48th_pixel")
    means = reading.case.get(f"realscale/{name}/tile_mean")
    if thin is not None:
        some = found[: len(thin), :, ::48, ::48]
        yield close("pixels", f"{name} at {step.size}", some, thin, reading.tolerance)
    if means is not None:
        some = found.mean(dim=(2, 3))[: len(means)]
        yield close("pixels", f"{name} at {step.size}: mean", some, means, reading.tolerance)


def _pair(name: str) -> tuple[int, int]:
    width, height = map(int, name.split("x"))
    return width, height


def _exact(wanted: Tensor | None, found: Tensor, stage: str, what: str) -> Check:
    assert wanted is not None
    return close(stage, what, found.to(wanted.dtype), wanted, 0.0)


# --- answers ---


def answers(reading: XGenCase) -> Iterator[Check]:
    """Prompts, embeddings, logits and greedy (or beam) answers."""
    model, processor = reading.loaded()
    for asked in reading.request["generate"]:
        name = asked["name"]
        samples = [reading.asked(text, images, name) for text, images in _asked(asked)]
        facts = reading.case.facts["generate"].get(name, {})
        shown = [reading.shown(one, processor, opened(one)) for one in samples]
        yield same("prompt", name, shown, facts.get("prompts", shown))
        woven = [processor.weave(one, opened(one), target=False) for one in samples]
        yield from _prompt(reading, model, processor, woven, f"gen/{name}", name)
        stops = processor.recipe.template.stop_strings
        ends = list(end_tokens(processor.weave.tokenizer, stops))
        yield from _written(reading, model, processor, woven, asked, f"gen/{name}", name, ends)
        stored = reading.case.get(f"gen/{name}/generated_ids")
        if stored is not None and "generated_ids" in facts:
            yield same("greedy ids", f"{name}: stated", stored, facts["generated_ids"])
        for row, ids in enumerate(facts.get("generated_ids", [])):
            for word, specials in (("text_skip_special", False), ("text_raw", True)):
                if word in facts:
                    text = processor.weave.tokenizer.decode(ids, specials)
                    yield same("text", f"{name} {word}", text, facts[word][row])


def opened(sample: Sample) -> bool:
    """Whether the model is to answer: not where the conversation ends with an answer already."""
    return sample.turns[-1].role != "assistant"


def _asked(asked: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """Prompts with their pictures; a prompt in words alone has none."""
    prompts = asked["prompts"]
    pictures = asked.get("images") or [None] * len(prompts)
    return [(text, list(files or ())) for text, files in zip(prompts, pictures, strict=True)]


def _prompt(
    reading: XGenCase,
    model: MultimodalLM,
    processor: Processor,
    woven: Sequence[Woven],
    prefix: str,
    name: str,
    fill: bool = False,
) -> Iterator[Check]:
    case = reading.case
    rows = [reading.marked(row, processor, fill)[0] for row in woven]
    wanted = case.get(f"{prefix}/input_ids")
    if wanted is not None:
        found = stacked(rows, processor.weave.tokenizer.pad, left=True)
        yield same("ids", name, found, wanted)
    mask = case.get(f"{prefix}/attention_mask")
    if mask is not None:
        ones = stacked([torch.ones_like(row) for row in rows], 0, left=True)
        yield same("ids", f"{name}: mask", ones, mask)
    batch = processor.batch(woven, "left")
    assert batch.attention_mask is not None
    with torch.inference_mode():
        embeddings = model.embed(batch.input_ids, batch["items"], batch.item_places)
    wanted, seen = case.get(f"{prefix}/spliced_embeds"), case.get(f"{prefix}/spliced_mask")
    if wanted is not None:
        ours = widened(batch.attention_mask, wanted.shape[1], 0, left=True)
        if seen is not None:
            yield same("embeddings", f"{name}: mask", ours, seen)
        # What is filled in is never looked at: the reference puts the number of the fill token there.
        keep = ours[..., None].bool()
        found = widened(embeddings, wanted.shape[1], 0, left=True).where(keep, 0)
        yield close("embeddings", name, found, wanted.where(keep, 0), reading.tolerance)
    wanted = case.get(f"{prefix}/prompt_logits")
    if wanted is not None:
        with torch.inference_mode():
            logits = model(**batch.inputs()).logits
        yield close("logits", name, logits, wanted, reading.tolerance)


def _written(
    reading: XGenCase,
    model: MultimodalLM,
    processor: Processor,
    woven: Sequence[Woven],
    asked: dict[str, Any],
    prefix: str,
    name: str,
    ends: list[int],
) -> Iterator[Check]:
    wanted = reading.case.get(f"{prefix}/generated_ids")
    steps = reading.case.get(f"{prefix}/step_logits")
    if wanted is None:
        return
    batch = processor.batch(woven, "left")
    beams = asked.get("num_beams", 1)
    with torch.inference_mode():
        done = model.generate(
            **batch.inputs(),
            max_new_tokens=asked.get("max_new_tokens", wanted.shape[1]),
            do_sample=False,
            num_beams=beams,
            eos_token_id=ends,
            pad_token_id=processor.weave.tokenizer.pad,
            output_logits=beams == 1,
            return_dict_in_generate=True,
        )
    new = done.sequences[:, batch.input_ids.shape[1] :]
    lengths = [_length(row, ends) for row in wanted.tolist()]
    if steps is not None and beams == 1:
        yield same("logits", f"{name}: steps", wanted.shape[1], len(steps))
        found = torch.stack(done.logits)
        count = min(len(found), len(steps))
        for row, length in enumerate(lengths):
            some = slice(0, min(count, length))
            what = f"{name} row {row + 1}"
            yield close("logits", what, found[some, row], steps[some, row], reading.tolerance)
    for row, length in enumerate(lengths):
        ours = new[row, : _length(new[row].tolist(), ends)]
        yield same("greedy ids", f"{name} row {row + 1}", ours, wanted[row, :length])


def _length(ids: list[int], ends: list[int]) -> int:
    """Tokens up to the first that ends, that one included."""
    return next((i + 1 for i, token in enumerate(ids) if token in ends), len(ids))


def no_sampling(reading: XGenCase) -> Iterator[Check]:
    """Any-res with the sampling of tiles off: one sequence and one pass for each picture."""
    asked = reading.request.get("no_patch_sampling")
    case = reading.case
    if not asked or case.get("nosampling/input_ids") is None:
        return
    model, processor = reading.loaded(anyres_patch_sampling=False)
    woven = [
        processor.weave(Sample((Turn("user", reading.content(text, [image])),), image), True)
        for text, image in zip(asked["prompts"], asked["images"], strict=True)
    ]
    batch = processor.batch(woven, "right")
    seen = encoded(model, batch)
    for word, name in (("features", "arranged"), ("mask", "mask"), ("tokens", "tokens")):
        wanted = case.get(f"nosampling/{word}")
        if wanted is not None:
            stage = "connector tokens" if word == "tokens" else "features"
            found = _like(seen[name], wanted)
            yield close(stage, f"no sampling: {word}", found, wanted, reading.tolerance)
    yield from _rows(reading, model, processor, woven, batch)


def _rows(
    reading: XGenCase,
    model: MultimodalLM,
    processor: Processor,
    woven: Sequence[Woven],
    batch: Batch,
) -> Iterator[Check]:
    case = reading.case
    wanted, texts = case.get("nosampling/input_ids"), case.get("nosampling/attention_mask")
    left = texts is not None and bool((texts[:, 0] == 0).any())
    rows = [reading.marked(row, processor)[0] for row in woven]
    assert wanted is not None and batch.attention_mask is not None
    found = stacked(rows, processor.weave.tokenizer.pad, left)
    yield same("ids", "no sampling", found, wanted)
    with torch.inference_mode():
        logits = model(**batch.inputs()).logits
    ends = batch.attention_mask.sum(dim=1) - 1
    golden, mask = (
        case.get("nosampling/logits_at_last_position"),
        case.get("nosampling/spliced_mask"),
    )
    if mask is not None:
        lengths = mask.sum(dim=1)
        yield same("embeddings", "no sampling: lengths", batch.attention_mask.sum(dim=1), lengths)
        if not left:
            wide = widened(batch.attention_mask, mask.shape[1], 0)
            yield same("embeddings", "no sampling: mask", wide, mask)
    case.get("nosampling/last_position")
    if golden is not None:
        at = logits[torch.arange(len(woven)), ends]
        yield close("logits", "no sampling, last", at, golden, reading.tolerance)


def base_release(reading: XGenCase) -> Iterator[Check]:
    """The prompt of the base release: plain resize, a place for every vision token."""
    facts, case = reading.case.facts["hubbase"], reading.case
    model, processor = reading.loaded(image_aspect_ratio="none")
    processor = processor.with_template(templates.named("xgen_base"))
    sample = shots(reading, facts["prompt"], facts["images"])
    woven = processor.weave(sample, opened(sample), target=False)
    wanted = case.get("hubbase/pixel_values")
    if wanted is not None:
        seen = encoded(model, processor.batch([woven]))
        found = _like(seen["pixels"], wanted)
        yield close("pixels", "base release", found, wanted, reading.tolerance)
    yield from _prompt(reading, model, processor, [woven], "hubbase", "base release", fill=True)
    asked = {"max_new_tokens": len(facts["generated"][0])}
    eos = facts["eos_token_id"]
    ends = [eos] if isinstance(eos, int) else list(eos)
    yield from _written(reading, model, processor, [woven], asked, "hubbase", "base release", ends)


def shots(reading: XGenCase, prompt: str, images: Sequence[str]) -> Sample:
    """A few-shot prompt as turns: each shot a question (picture and words) and the answer that ends it."""
    waiting = list(images)
    turns: list[Turn] = []
    parts = prompt.replace("<image placeholder>", "").split("<|endofchunk|>")
    for i, chunk in enumerate(parts):
        files = [waiting.pop(0) for _ in range(chunk.count("<image>"))]
        if not chunk and i == len(parts) - 1:
            break  # the prompt ends with a shot, not with a question
        turns.append(Turn("user", reading.content(chunk, files)))
        if i < len(parts) - 1:
            turns.append(Turn("assistant", ("",)))
    return Sample(tuple(turns), "shots")


def layouts(reading: XGenCase) -> Iterator[Check]:
    """Every complete checkpoint of the case holds the same weights."""
    model, _ = reading.loaded()
    state = model.state_dict()
    for name, layout in list(reading.layouts.items())[1:]:
        if "module." in (layout.prefix or ""):
            continue  # written in the middle of the training run, compared there
        tensors, _ = files.native_tensors(reading.release(layout))
        apart = max(float((tensors[key] - tensor).abs().max()) for key, tensor in state.items())
        yield number("weights", name, apart, 0.0, 0.0)
