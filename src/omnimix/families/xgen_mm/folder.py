"""xGen-MM (BLIP-3) v1.5: hub folders, trainer files under FSDP and DDP, the converter's bare state dict.

A trainer's file names no sizes beyond its shapes and holds no tokenizer, under DDP no vision encoder either;
those come as parts: `llm` (a Phi-3 folder), `vision` (a SigLIP folder) and, where it lies apart from the
language model, `tokenizer`. The words say what no file does; `heads` of a resampler of another size than
the released one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from omnimix.checkpoints import parts as places
from omnimix.checkpoints.base import Beside, Family, Layout, Parts, Release, Weights, read_json
from omnimix.checkpoints.files import Files, heads, layers
from omnimix.checkpoints.tables import RenameTable
from omnimix.compose.recipe import Recipe
from omnimix.errors import CheckpointError, UnsafeFileError, placed
from omnimix.families.xgen_mm import recipe as xgen_recipe, tokenizer, write
from omnimix.families.xgen_mm.names import (
    HUB,
    LATENTS,
    PREFIXES,
    SIGLIP,
    TOWER,
    TRAINER,
    prefix_of,
    table,
)
from omnimix.families.xgen_mm.recipe import HALF, LM_ID, RESAMPLER, VISION, VISION_ID, Facts
from omnimix.media.tiling import GRIDS

if TYPE_CHECKING:
    from omnimix.compose.model import MultimodalLM
    from omnimix.compose.processor import Processor

CHECKPOINT = r"checkpoint_(\d+)\.pt"
"""The name of a trainer's file."""

SUFFIXES = (".pt", ".pth", ".bin")

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class Found(Layout):
    """A checkpoint of the family.

    Attributes:
        config: config.json of a hub folder.
        prefix: of every key of a trainer's file.
        tensors: weights that no file of the layout holds, since a caller has them in hand.
    """

    config: Mapping[str, Any] = field(default_factory=dict)
    prefix: str | None = None
    tensors: Mapping[str, Tensor] | None = None


class XGenMM(Family[Found, Facts]):
    """Released and trained xGen-MM models."""

    name = "xgen_mm"
    title = "xGen-MM"
    part_names = ("llm", "vision", "tokenizer")
    known_words = (
        *("num_vision_tokens", "image_aspect_ratio", "anyres_patch_sampling", "anyres_grids"),
        "heads",
    )
    layouts = (
        "a hub folder (config.json of type xgenmm, model-*.safetensors)",
        "a trainer's file or its folder (checkpoint_N.pt, FSDP or DDP)",
        "the converter's bare state dict (.pt)",
    )

    def recognise(self, path: Path) -> Found | None:
        if path.is_file() and path.suffix in SUFFIXES:
            return self._file(path)
        if not path.is_dir():
            return None
        config = read_json(path / "config.json")
        if config is not None:
            ours = config.get("model_type") == "xgenmm"
            return Found(self.name, HUB, path, config=config) if ours else None
        numbered = [
            (int(m[1]), p)
            for p in path.iterdir()
            if (m := re.fullmatch(CHECKPOINT, p.name)) is not None
        ]
        # The reference takes the highest number, whether it counts steps or epochs.
        if numbered:
            return self._file(max(numbered)[1])
        # The converter writes its one file under whatever name it was given.
        alone = [p for p in path.iterdir() if p.is_file() and p.suffix in SUFFIXES]
        return self._file(alone[0]) if len(alone) == 1 else None

    def _file(self, path: Path) -> Found | None:
        opened = Files()
        try:
            prefix = prefix_of(opened.tensors(path))
        except UnsafeFileError:  # no file that this family writes
            return None
        if prefix is None:
            return None
        return Found(self.name, PREFIXES[prefix], path, (path,), opened, prefix=prefix)

    def at_hand(self, state: Mapping[str, Tensor]) -> Found:
        """A trainer's or the converter's weights that a caller has read already."""
        return Found(self.name, TRAINER, Path("state_dict"), tensors=state)

    def part_of(self, layout: Found, beside: Beside) -> str | None:
        kinds = {"siglip": "vision", "siglip_vision_model": "vision", "phi3": "llm"}
        return kinds.get(str(beside.config.get("model_type")))

    def open(self, layout: Found, parts: Parts = Parts()) -> Release:  # noqa: B008  (frozen)
        hub = layout.kind == HUB
        files = places.weight_files(layout.root, "model") if hub else layout.files
        state = layout.opened.tensors(*files) if layout.tensors is None else layout.tensors
        prefix = prefix_of(state)
        if prefix is None:
            raise CheckpointError(
                f"no weights of xGen-MM: there is no {LATENTS} among {len(state)} keys",
                where=str(layout.root),
                hint="copy the whole checkpoint again",
            )
        shapes = {
            k.removeprefix(prefix): tuple(tensor.shape)
            for k, tensor in state.items()
            if k.startswith(prefix)
        }
        folder = layout.root if hub else _part("llm", LM_ID, parts, places.CONFIGS)
        names = _part("tokenizer", str(folder), parts, places.CONFIGS)
        facts = _facts(layout, parts, shapes, folder, names)
        recipe = xgen_recipe.build(facts, _name(layout), str(layout.root))
        weights = [
            Weights("checkpoint", tuple(files), table(prefix, facts.used), tensors=layout.tensors)
        ]
        notes = []
        if not any(key.startswith("vision_encoder.") for key in shapes):
            place = _part("vision", VISION_ID, parts, (*places.CONFIGS, *places.WEIGHTS))
            weights.append(Weights("vision", places.weight_files(place, "vision encoder"), SIGLIP))
            notes.append(f"the file holds no vision encoder; it was taken from {place.name}")
        return Release(layout, recipe, names, tuple(weights), tuple(notes))

    def recipe(self, words: Facts) -> Recipe:
        return xgen_recipe.build(words)

    def words_of(self, recipe: Recipe) -> Facts:
        return xgen_recipe.facts_of(recipe)

    def names(self, recipe: Recipe) -> Mapping[str, RenameTable]:
        used = xgen_recipe.facts_of(recipe).used
        return {"checkpoint": table("vlm.", used), "vision": SIGLIP}

    def put(
        self, words: Facts, model: MultimodalLM, processor: Processor, out: Path, **options: Any
    ) -> list[Path]:
        """`checkpoint_N.pt` is a trainer's file, another `.pt` the converter's bare state dict, anything
        else a hub folder.
        """
        if out.suffix != ".pt":
            return write.hub(words, self.tensors(model, "vlm."), processor, out)
        state: dict[str, Any] = self.tensors(model)
        if re.fullmatch(CHECKPOINT, out.name):
            state = {"epoch": 0, "step": None, "model_state_dict": state}
        out.parent.mkdir(parents=True, exist_ok=True)
        torch.save(state, out)
        return [out]

    def tensors(self, model: MultimodalLM, prefix: str = "") -> dict[str, Tensor]:
        """Every tensor under the foreign names, with one of `names.PREFIXES` before them."""
        facts, state = self.words_of(model.recipe), model.state_dict()
        theirs = self.foreign(table(prefix, facts.used), state, model.recipe)
        head = write.pooling_head(facts, state[f"{TOWER}post_layernorm.weight"])
        theirs |= {f"{prefix}vision_encoder.{name}": zeros for name, zeros in head.items()}
        return dict(sorted(theirs.items()))


def _part(name: str, default: str, parts: Parts, files: Sequence[str]) -> Path:
    return places.folder(parts.places.get(name, default), name, files)


def vision_words(place: str | Path) -> dict[str, Any]:
    """The vision tower's configuration; that of the release is known without its files."""
    if str(place) == VISION_ID:
        return dict(VISION)
    folder = places.folder(place, "vision", places.CONFIGS)
    whole = places.config(folder, "vision encoder")
    return xgen_recipe.differing("siglip_vision_model", whole.get("vision_config", whole))


def _name(layout: Found) -> str:
    root = layout.root
    return root.name if layout.kind == HUB else f"{root.parent.name}/{root.stem}"


def _facts(layout: Found, parts: Parts, shapes: Shapes, folder: Path, names: Path) -> Facts:
    """What the files tell, and what the user says where they do not."""
    where = str(layout.root)
    hub = layout.kind == HUB
    spec, add_bos = tokenizer.read(names)
    words = {**(_hub_words(layout.config) if hub else {}), **parts.words}
    text = layout.config.get("text_config", {})
    if not hub:
        text = places.config(folder, "language model")
    before = tokenizer.mark_ids(spec)[0]
    counted = int(text.get("initial_tokenizer_len", before))
    if counted != before:
        raise CheckpointError(
            f"the configuration counts {counted} tokens before <image>, the tokenizer {before}",
            where=where,
            hint="config.json and the tokenizer must come from one release",
        )
    vision = layout.config.get("vision_encoder_config", {}).get("omnimix_sizes")
    if vision is None or "vision" in parts.places:
        vision = vision_words(parts.places.get("vision", VISION_ID))
    aspect = check_words(words, where)
    processor = read_json(folder / "preprocessor_config.json") or {}
    grids: Sequence[tuple[int, int]] = GRIDS
    if given := words.get("anyres_grids"):
        grids = tuple((columns, rows) for columns, rows in given)
    elif aspect == "anyres" and processor.get("grids"):
        side = int(xgen_recipe.tower(vision).image_size)
        grids = xgen_recipe.grids_in_tiles(processor["grids"], side, where)
    with placed(where):
        resampler = _resampler(shapes, words)
    return Facts(
        text=xgen_recipe.differing("phi3", text),
        vision=vision,
        tokenizer=spec,
        latents=_latents(shapes, words.get("num_vision_tokens"), where),
        resampler=resampler,
        aspect=aspect,
        sampling=bool(words.get("anyres_patch_sampling", True)),
        grids=grids,
        mean=tuple(processor.get("image_mean", HALF)),
        std=tuple(processor.get("image_std", HALF)),
        add_bos=add_bos,
        chat=not hub or aspect in ("anyres", "pad"),
    )


def check_words(words: Mapping[str, Any], where: str) -> str:
    """Check values of the family's words; returns how a picture is cut.

    Raises:
        CheckpointError: names the word.
    """

    def counts(*values: Any) -> bool:
        return all(type(value) is int and value > 0 for value in values)

    for word in ("num_vision_tokens", "heads"):
        if (said := words.get(word)) is not None and not counts(said):
            hint = "give a whole number above 0"
            raise CheckpointError(f"{word} is {said!r}", where=where, hint=hint)
    if not isinstance(said := words.get("anyres_patch_sampling", True), bool):
        hint = "give true or false"
        raise CheckpointError(f"anyres_patch_sampling is {said!r}", where=where, hint=hint)
    grids = words.get("anyres_grids") or ()
    pairs = isinstance(grids, list | tuple) and all(isinstance(g, list | tuple) for g in grids)
    if not pairs or not all(len(grid) == 2 and counts(*grid) for grid in grids):
        hint = "give columns and rows of tiles, [[1, 2], [2, 1], ...]"
        raise CheckpointError(f"anyres_grids is {grids!r}", where=where, hint=hint)
    return xgen_recipe.aspect_of(words.get("image_aspect_ratio", "anyres"), where)


def _hub_words(config: Mapping[str, Any]) -> dict[str, Any]:
    """The family's words that a hub folder tells."""
    encoder = config.get("vision_encoder_config", {})
    resampler = config.get("vision_tokenizer_config", {})
    words = {
        # The base release leaves the aspect at its default, which is a plain resize.
        "image_aspect_ratio": encoder.get("image_aspect_ratio", "none"),
        "anyres_patch_sampling": encoder.get("anyres_patch_sampling", False),
        "num_vision_tokens": resampler.get("num_vis_tokens", 128),
    }
    return words | ({"heads": resampler["heads"]} if "heads" in resampler else {})


def _latents(shapes: Shapes, wanted: Any, where: str) -> int:
    held = shapes[LATENTS][0]
    if wanted is not None and int(wanted) != held:
        raise CheckpointError(
            f"the checkpoint holds {held} latents, but {wanted} tokens for each picture were asked for",
            where=where,
            hint=f"set num_vision_tokens to {held}; other latents would be random ones",
        )
    return held


def _resampler(shapes: Shapes, words: Mapping[str, Any]) -> dict[str, int]:
    """Sizes of the resampler from its shapes; only the number of heads is in none of them."""
    stem = "vision_tokenizer.layers."
    query, inside = f"{stem}0.0.to_q.weight", f"{stem}0.1.1.weight"
    if query not in shapes or inside not in shapes:
        return RESAMPLER  # whoever loads is told which weights are missing
    inner, width = shapes[query]
    usual = RESAMPLER["heads"]
    number = heads("heads", "resampler", inner, (usual * RESAMPLER["dim_head"], usual), words)
    sizes = {"depth": layers(shapes, stem), "heads": number, "dim_head": inner // number}
    return {**sizes, "ff_mult": shapes[inside][0] // width}
