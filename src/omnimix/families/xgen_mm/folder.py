"""xGen-MM (BLIP-3) v1.5: hub folders, trainer files under FSDP and DDP, the converter's bare state dict.

See golden/specs/xgen_mm.md section 6. A trainer's file names no sizes beyond its shapes and holds no tokenizer,
under DDP no vision encoder either; those come as parts: `llm` (a Phi-3 folder) and `vision` (a SigLIP
folder). Words that no file tells: `num_vision_tokens`, `image_aspect_ratio`, `anyres_patch_sampling`,
`anyres_grids` and `heads` of a resampler of another size than the released one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from omnimix.checkpoints import parts as places, reading
from omnimix.checkpoints.base import Family, Layout, Parts, Release, Weights, read_json
from omnimix.checkpoints.tables import Ignore, Rename, Rule, Table
from omnimix.errors import CheckpointError
from omnimix.families.xgen_mm import recipe as xgen_recipe
from omnimix.families.xgen_mm.recipe import LM_ID, MARKS, VISION_ID, Facts
from omnimix.media.tiling import GRIDS
from omnimix.registry import did_you_mean

if TYPE_CHECKING:
    from omnimix.compose.model import MultimodalLM
    from omnimix.compose.processor import Processor

HUB, TRAINER, BARE = "hub folder", "trainer's file", "bare state dict"

PREFIXES = {
    "vlm.": HUB,
    "model_state_dict.": TRAINER,
    "model_state_dict.module.": TRAINER,
    "": BARE,
    "module.": BARE,
}
"""What stands before `vision_tokenizer.latents` in each layout; `module.` is DDP's."""

TOWER = "image.branches.0.encoders.0.tower."
CONNECTOR = "image.branches.0.connector."
LATENTS = "vision_tokenizer.latents"

_HEAD = "the pooling head of SigLIP is used by nobody"
SUFFIXES = (".pt", ".pth", ".bin")
CHECKPOINT = re.compile(r"checkpoint_(\d+)\.pt")


@dataclass(frozen=True)
class Decoupled(Rule):
    """A table whose added rows are kept apart: base rows, then added ones, then the unused base rows.

    Attributes:
        base, extra: foreign names of the table and of the rows added to it.
        ours: our name of the joined one.
        used: how many base rows are used.
        added: how many rows are added.
    """

    base: str
    extra: str
    ours: str
    used: int
    added: int = len(MARKS)

    @property
    def foreign(self) -> tuple[str, ...]:
        return (self.base, self.extra)

    @property
    def native(self) -> tuple[str, ...]:
        return (self.ours,)

    def read(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        base, extra = tensors
        return [torch.cat([base[: self.used], extra, base[self.used :]])]

    def write(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        (table,) = tensors
        end = self.used + self.added
        return [torch.cat([table[: self.used], table[end:]]), table[self.used : end].clone()]


def table(prefix: str, used: int) -> Table:
    """The rename table of one layout.

    Args:
        prefix: of every key, see `PREFIXES`.
        used: rows of the language model's tables that are used (`initial_tokenizer_len`).
    """
    lm = f"{prefix}lang_model."
    embed, head = "model.embed_tokens", "lm_head"
    return Table(
        Decoupled(
            f"{lm}{embed}.weight",
            f"{lm}{embed}.additional_embedding.weight",
            f"language.{embed}.weight",
            used,
        ),
        Decoupled(
            f"{lm}{head}.weight",
            f"{lm}{head}.additional_fc.weight",
            f"language.{head}.weight",
            used,
        ),
        Decoupled(
            f"{lm}{head}.bias", f"{lm}{head}.additional_fc.bias", f"language.{head}.bias", used
        ),
        Rename(f"{lm}*", "language.*"),
        Ignore(f"{prefix}vision_encoder.head.*", _HEAD),
        Rename(f"{prefix}vision_encoder.*", f"{TOWER}*"),
        Rename(f"{prefix}vision_tokenizer.*", f"{CONNECTOR}*"),
        Ignore("optimizer_state_dict.*", "the optimizer's state is not carried over"),
        Ignore("lr_scheduler_state_dict.*", "the schedule's state is not carried over"),
    )


SIGLIP = Table(
    Ignore("vision_model.head.*", _HEAD),
    Rename("vision_model.*", f"{TOWER}*"),
    Ignore("text_model.*", "the text tower of SigLIP is used by nobody"),
    Ignore("logit_scale", "belongs to SigLIP's own loss"),
    Ignore("logit_bias", "belongs to SigLIP's own loss"),
)
"""A whole SigLIP model, of which the vision tower is ours."""


class XGenMM(Family):
    """Released and trained xGen-MM models."""

    name = "xgen_mm"
    layouts = (
        "a hub folder (config.json of type xgenmm, model-*.safetensors)",
        "a trainer's file or its folder (checkpoint_N.pt, FSDP or DDP)",
        "the converter's bare state dict (.pt)",
    )

    def recognise(self, path: Path) -> Layout | None:
        if path.is_dir():
            words = read_json(path / "config.json")
            if words is not None:
                ours = words.get("model_type") == "xgenmm"
                return Layout(self.name, HUB, path, facts={"config": words}) if ours else None
            numbered = [(int(m[1]), p) for p in path.iterdir() if (m := CHECKPOINT.match(p.name))]
            # The reference takes the highest number, whether it counts steps or epochs.
            if numbered:
                return self._file(max(numbered)[1])
            # The converter writes its one file under whatever name it was given.
            alone = [p for p in path.iterdir() if p.is_file() and p.suffix in SUFFIXES]
            return self._file(alone[0]) if len(alone) == 1 else None
        if path.is_file() and path.suffix in SUFFIXES:
            return self._file(path)
        return None

    def _file(self, path: Path) -> Layout | None:
        try:
            keys = reading.tensors_of(path).keys()
        except CheckpointError as error:
            if "Python objects" in error.what:  # no file that this family writes
                return None
            raise
        prefix = _prefix(keys)
        if prefix is None:
            return None
        return Layout(self.name, PREFIXES[prefix], path, (path,), {"prefix": prefix})

    def parts(self, layout: Layout) -> Parts:
        """A folder `backbones` beside the checkpoint or above it, told apart by what is inside."""
        found: dict[str, str | Path] = {}
        for above in (layout.root, *layout.root.parents[:3]):
            for folder in sorted((above / "backbones").glob("*/config.json")):
                kind = (read_json(folder) or {}).get("model_type")
                if kind in ("siglip", "siglip_vision_model"):
                    found.setdefault("vision", folder.parent)
                elif kind == "phi3":
                    found.setdefault("llm", folder.parent)
        return Parts(found)

    def open(self, layout: Layout, parts: Parts = Parts()) -> Release:  # noqa: B008  (frozen)
        hub = layout.kind == HUB
        files = places.weight_files(layout.root, "model") if hub else layout.files
        sizes = _sizes(files)
        prefix = _prefix(sizes)
        if prefix is None:
            raise CheckpointError(
                f"no weights of xGen-MM: there is no {LATENTS} among {len(sizes)} keys",
                where=str(layout.root),
                hint="copy the whole checkpoint again",
            )
        own = {k.removeprefix(prefix): s for k, s in sizes.items() if k.startswith(prefix)}
        tower = any(key.startswith("vision_encoder.") for key in own)
        folder = layout.root if hub else self._part("llm", LM_ID, parts, places.CONFIGS)
        facts = _facts(layout, parts, own, folder, _vision(layout, parts))
        recipe = xgen_recipe.build(facts, _name(layout), str(layout.root))
        weights = [Weights("checkpoint", tuple(files), table(prefix, facts.own_tokens))]
        notes = []
        if not tower:
            wanted = (*places.CONFIGS, *places.WEIGHTS)
            place = self._part("vision", VISION_ID, parts, wanted)
            weights.append(Weights("vision", places.weight_files(place, "vision encoder"), SIGLIP))
            notes.append(f"the file holds no vision encoder; it was taken from {place.name}")
        return Release(layout, recipe, folder, tuple(weights), tuple(notes))

    def _part(self, name: str, default: str, parts: Parts, files: Sequence[str]) -> Path:
        return places.folder(parts.places.get(name, default), name, files)

    def write(
        self, model: MultimodalLM, processor: Processor, out: Path, **options: Any
    ) -> list[Path]:
        from omnimix.families.xgen_mm import write as xgen_write

        return xgen_write.write(model, processor, out)


def vision_config(place: str | Path) -> dict[str, Any]:
    """The vision tower's configuration; that of the release is known without its files."""
    if str(place) == VISION_ID:
        return dict(xgen_recipe.VISION)
    folder = places.folder(place, "vision", places.CONFIGS)
    return xgen_recipe.vision_words(places.config(folder, "vision encoder"))


def _vision(layout: Layout, parts: Parts) -> dict[str, Any]:
    words = layout.facts.get("config", {}).get("vision_encoder_config", {})
    if "omnimix_sizes" in words and "vision" not in parts.places:
        return dict(words["omnimix_sizes"])
    return vision_config(parts.places.get("vision", VISION_ID))


def _name(layout: Layout) -> str:
    root = layout.root
    return root.name if layout.kind == HUB else f"{root.parent.name}/{root.stem}"


def _prefix(keys: Mapping[str, Any] | Any) -> str | None:
    """What stands before every key of the model; None where these are no keys of xGen-MM."""
    for key in keys:
        if key.endswith(LATENTS):
            prefix = key.removesuffix(LATENTS)
            return prefix if prefix in PREFIXES else None
    return None


def _sizes(files: Sequence[Path]) -> dict[str, tuple[int, ...]]:
    """The shape of every key; tensors stay mapped, no weight is read."""
    found: dict[str, tuple[int, ...]] = {}
    for file in files:
        found |= {key: tuple(t.shape) for key, t in reading.tensors_of(file).items()}
    return found


def _facts(
    layout: Layout,
    parts: Parts,
    sizes: Mapping[str, tuple[int, ...]],
    folder: Path,
    vision: Mapping[str, Any],
) -> Facts:
    where = str(layout.root)
    words = _known(parts.words, where)
    tokenizer, first, add_bos = xgen_recipe.tokenizer(folder)
    if layout.kind == HUB:
        found = layout.facts["config"]
        text = found.get("text_config", {})
        encoder = found.get("vision_encoder_config", {})
        resampler = found.get("vision_tokenizer_config", {})
        # The base release leaves the aspect at its default, which is a plain resize.
        words.setdefault("image_aspect_ratio", encoder.get("image_aspect_ratio", "none"))
        words.setdefault("anyres_patch_sampling", encoder.get("anyres_patch_sampling", False))
        words.setdefault("num_vision_tokens", resampler.get("num_vis_tokens", 128))
        if "heads" in resampler:
            words.setdefault("heads", resampler["heads"])
        own_tokens = int(text.get("initial_tokenizer_len", first))
        if own_tokens != first:
            raise CheckpointError(
                f"the configuration counts {own_tokens} tokens before <image>, the tokenizer {first}",
                where=where,
                hint="config.json and the tokenizer must come from one release",
            )
    else:
        text = places.config(folder, "language model")
    aspect = str(words.get("image_aspect_ratio", "anyres"))
    side = int(vision["image_size"])
    processor = read_json(folder / "preprocessor_config.json") or {}
    pixels = processor.get("grids") if aspect == "anyres" else None
    given = words.get("anyres_grids")
    _check_vision(sizes, vision, where)
    return Facts(
        text=xgen_recipe.text_words(text),
        vision=vision,
        tokenizer=tokenizer,
        own_tokens=first,
        latents=_latents(sizes, words.get("num_vision_tokens"), where),
        resampler=_resampler(sizes, words.get("heads"), where),
        aspect=aspect,
        sampling=bool(words.get("anyres_patch_sampling", True)),
        grids=_grids(given, pixels, side, where),
        mean=tuple(processor.get("image_mean", (0.5, 0.5, 0.5))),
        std=tuple(processor.get("image_std", (0.5, 0.5, 0.5))),
        add_bos=add_bos,
        chat=layout.kind != HUB or aspect in ("anyres", "pad"),
    )


WORDS = (
    "num_vision_tokens",
    "image_aspect_ratio",
    "anyres_patch_sampling",
    "anyres_grids",
    "heads",
)


def _known(words: Mapping[str, Any], where: str) -> dict[str, Any]:
    for word in words:
        if word not in WORDS:
            raise CheckpointError(
                f"xGen-MM knows no word {word!r}", where=where, hint=did_you_mean(word, WORDS)
            )
    return dict(words)


def _grids(given: Any, pixels: Any, side: int, where: str) -> tuple[tuple[int, int], ...]:
    if given:
        return tuple((int(width), int(height)) for width, height in given)
    return xgen_recipe.grids(pixels, side, where) if pixels else GRIDS


def _latents(sizes: Mapping[str, tuple[int, ...]], wanted: Any, where: str) -> int:
    found = sizes[LATENTS][0]
    if wanted is not None and int(wanted) != found:
        raise CheckpointError(
            f"the checkpoint holds {found} latents, but {wanted} tokens for each picture were asked for",
            where=where,
            hint=f"set num_vision_tokens to {found}; other latents would be random ones",
        )
    return found


def _resampler(sizes: Mapping[str, tuple[int, ...]], heads: Any, where: str) -> dict[str, int]:
    """Sizes of the resampler from its shapes; only the number of heads is in none of them."""
    layer = "vision_tokenizer.layers.0."
    try:
        inner, width = sizes[f"{layer}0.to_q.weight"]
        hidden = sizes[f"{layer}1.1.weight"][0]
    except KeyError as error:
        raise CheckpointError(
            f"the resampler is incomplete: no {error.args[0]}",
            where=where,
            hint="copy the whole checkpoint again",
        ) from None
    ours = xgen_recipe.RESAMPLER
    if heads is None:
        heads = ours["heads"]
        if inner != heads * ours["dim_head"]:
            raise CheckpointError(
                f"the resampler is {inner} wide, the released one {heads * ours['dim_head']}, so its "
                "number of heads is not known",
                where=where,
                hint="give it as the word heads",
            )
    layers = {key.split(".")[2] for key in sizes if key.startswith("vision_tokenizer.layers.")}
    return {
        "depth": len(layers),
        "heads": int(heads),
        "dim_head": inner // int(heads),
        "ff_mult": hidden // width,
    }


def _check_vision(
    sizes: Mapping[str, tuple[int, ...]], vision: Mapping[str, Any], where: str
) -> None:
    """The number of heads of a vision tower is in no shape, so its configuration must be the right one."""
    patch = sizes.get("vision_encoder.embeddings.patch_embedding.weight")
    places_ = sizes.get("vision_encoder.embeddings.position_embedding.weight")
    if patch is None or places_ is None:
        return
    grid = int(vision["image_size"]) // int(vision["patch_size"])
    wanted = (int(vision["hidden_size"]), int(vision["patch_size"]), grid * grid)
    found = (patch[0], patch[2], places_[0])
    if found != wanted:
        raise CheckpointError(
            "the vision encoder in the checkpoint is {} wide with patches of {} pixels and {} places, "
            "the named one {}, {} and {}".format(*found, *wanted),
            where=where,
            hint="name the folder of the right one as the part vision",
        )
