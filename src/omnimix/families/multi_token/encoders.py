"""The encoders of multi_token's senses: words out of a folder of the hub, keys of its file, the folder written back.

`Sense` does what all share, told by its row in `senses`; a class of its own has what is prepared in another way.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omnimix import hf_config
from omnimix.checkpoints import parts as places
from omnimix.checkpoints.base import read_json
from omnimix.checkpoints.tables import Ignore, Rename, RenameTable
from omnimix.compose import recipe as recipes
from omnimix.compose.modality import ModalitySpec
from omnimix.errors import CheckpointError
from omnimix.families.multi_token.names import Projector
from omnimix.registry import STEPS

PREPROCESSOR = "preprocessor_config.json"

Words = dict[str, Any]
"""Of a modality in a recipe, or of its encoder; laid over while a folder is read."""

Facts = Mapping[str, Any]
"""Words that are only looked at."""

_ASIDE = re.compile(
    r".*suppress_tokens|architectures|.*dtype|transformers_version|_name_or_path|use_cache|.*drop.*|init.*|apply_spec.*|mask_.*"
)
"""Words of a configuration that say nothing about a frozen network."""

_COMPUTED = ("*.position_ids", "*.attn_mask")


def encoder_of(words: Facts) -> dict[str, Any]:
    """The words of a modality's one encoder.

    Raises:
        ValueError: it has several.
    """
    encoders: list[dict[str, Any]] = [e for b in words["branches"] for e in b["encoders"]]
    if len(encoders) != 1:
        raise ValueError(f"a modality there has one encoder, this one {len(encoders)}")
    return encoders[0]


def _step(steps: Iterable[dict[str, Any]], kind: str) -> dict[str, Any]:
    for step in steps:
        if step["kind"] == kind:
            return step
    raise ValueError(f"its items are prepared without the step {kind!r}")


def _told_by(config: Any) -> dict[str, Any]:
    """The words of a configuration of transformers, its defaults left out, and what its type has no use for."""
    words = config.to_diff_dict() | {"model_type": config.model_type}
    for word in hf_config.unknown(config, list(words)):
        del words[word]
    return {w: v for w, v in words.items() if v is not None and not _ASIDE.fullmatch(w)}


@dataclass(frozen=True)
class Sense:
    """One modality of the reference, whose encoder is a network of transformers.

    Attributes:
        name: ours.
        hub: hub id of its encoder.
        recipe: the shipped recipe with its words; what a folder says of its own sizes is laid over them, so
            that a stand-in of another size opens like the release.
        moves: beginnings of the encoder's keys, and what stands for them on our tree.
        unused: patterns of keys that nothing here reads.
        model_type: of the encoder's configuration.
        side: the word under which the configuration of two networks has this one; a folder may hold it alone.
        config: our encoder's word for its configuration.
        processor: type of what prepares its items.
        files: patterns of what has to be fetched.
    """

    name: str
    hub: str
    recipe: str
    moves: Mapping[str, str]
    unused: tuple[str, ...] = ()
    model_type: str = ""
    side: str = ""
    config: str = "config"
    processor: str = ""
    files: tuple[str, ...] = (*places.CONFIGS, *places.WEIGHTS)

    def spot(self, place: str | Path | None, name: str) -> Path:
        """Where the encoder lies.

        Raises:
            CheckpointError: neither there nor to be had.
        """
        return places.folder(place or self.hub, name, self.files)

    def words(self, projector: Projector, place: Path, options: Facts) -> Any:
        """The words of the modality in a recipe.

        Args:
            projector: what its keys say.
            place: of its encoder.
            options: the words that no file tells.
        """
        pooled = projector.tokens is not None
        name = f"{self.recipe}_pool" if self.name == "image" and pooled else self.recipe
        words: Words = recipes.load(name).modalities[self.name].dump()
        self.fit(words, encoder_of(words), place, options)
        connector: dict[str, Any] = {"kind": "mlp", "depth": projector.depth}
        if pooled:
            connector |= {"kind": "token_mlp", "tokens": projector.tokens}
        words["branches"][0]["connector"] = connector
        return words

    def fit(self, words: Words, encoder: Words, place: Path, options: Facts) -> Any:
        """Lay what the encoder's folder says over the words of the modality, its encoder's among them.

        Returns:
            The configuration in the folder as transformers reads it.
        """
        from transformers import AutoConfig

        places.config(place, f"{self.name} encoder")
        try:
            whole = AutoConfig.from_pretrained(place, local_files_only=True)
        except (ValueError, OSError, TypeError) as error:
            line = next(iter(str(error).splitlines()), type(error).__name__)
            raise CheckpointError(
                f"transformers cannot read the configuration of the {self.name} encoder ({line[:160]})",
                where=str(place / "config.json"),
                hint="copy the folder again",
            ) from None
        encoder[self.config] = _told_by(getattr(whole, self.side, whole) if self.side else whole)
        return whole

    def table(self, ours: str, words: Facts) -> RenameTable:
        """Keys of the encoder's file.

        Args:
            ours: where the encoder stands on our tree.
            words: of the modality.
        """
        return RenameTable(
            *(Ignore(pattern, "computed, not learned") for pattern in _COMPUTED),
            *(
                Ignore(key, "a half, head or layer that nothing here reads")
                for key in (*self.unused, *self.unread(words))
            ),
            *(Rename(f"{theirs}*", f"{ours}{own}*") for theirs, own in self.moves.items()),
        )

    def unread(self, words: Facts) -> list[str]:
        """Patterns of further keys that a modality of these words leaves out."""
        return []

    def told(self, words: Facts) -> dict[str, Any]:
        """The small files of a folder of which `fit` makes the words again.

        Raises:
            ValueError: words of another encoder or of other steps.
        """
        encoder = encoder_of(words)
        own = config = {"model_type": self.model_type, **encoder.get(self.config, {})}
        if self.side:
            config = {"model_type": self.model_type.partition("_")[0], self.side: own}
            # What the last layer gives is said once for both networks.
            width = {**own, **encoder}.get("projection_dim")
            config |= {} if width is None else {"projection_dim": width}
        files = {"config.json": config}
        if prepared := self.prepared(words, encoder):
            files[PREPROCESSOR] = {"feature_extractor_type": self.processor, **prepared}
        return files

    def prepared(self, words: Facts, encoder: Facts) -> dict[str, Any]:
        """What `preprocessor_config.json` says."""
        return {}

    def options(self, words: Facts) -> dict[str, Any]:
        """The words that no file tells."""
        return {}

    def carried(self, words: Facts, place: Path) -> dict[str, Path]:
        """Files that the steps read, by the names that the steps give them."""
        return {}

    def alike(self, one: ModalitySpec, other: ModalitySpec) -> bool:
        """Whether two modalities are the same, their networks' configurations with all defaults."""
        return self._whole(one) == self._whole(other)

    def _whole(self, spec: ModalitySpec) -> dict[str, Any]:
        words: Words = spec.dump()
        if self.model_type:
            encoder_of(words)[self.config] = _told_by(self.network(encoder_of(words)))
        return words

    def network(self, encoder: Facts) -> Any:
        """The configuration that transformers makes of an encoder's words."""
        return hf_config.make(encoder.get(self.config, {}), self.model_type)


class Seen(Sense):
    """Pictures and videos: resized, cropped and normalized as the processor beside the weights says."""

    def fit(self, words: Words, encoder: Words, place: Path, options: Facts) -> Any:
        whole, network = super().fit(words, encoder, place, options), encoder[self.config]
        resize, normal = _step(words["steps"], "resize_crop"), encoder["steps"][0]
        told = read_json(place / PREPROCESSOR) or {}
        side = int(network["image_size"])
        shorter, resize["size"] = (_side(told.get(word), side) for word in ("size", "crop_size"))
        if shorter != resize["size"]:
            resize["shortest_edge"] = shorter
        for word in ("mean", "std"):
            normal[word] = list(told.get(f"image_{word}") or normal[word])
        if self.name == "video":
            encoder["projection_dim"] = int(whole.projection_dim)
            frames = int(network["num_frames"])
            words["opens"]["num_frames"] = _step(words["steps"], "clip")["num_frames"] = frames
        elif options.get("pad_non_square_images"):
            fill = [int(channel * 255) for channel in normal["mean"]]
            words["steps"].insert(0, {"kind": "pad", "fill": fill})

    def unread(self, words: Facts) -> list[str]:
        # hidden_states[layer] of n layers: the last -layer - 1 of them are not built.
        encoder = encoder_of(words)
        depth = int(self.network(encoder).num_hidden_layers)
        behind = range(depth + 1 + (encoder.get("layer") or -1), depth)
        return [f"vision_model.encoder.layers.{i}.*" for i in behind]

    def prepared(self, words: Facts, encoder: Facts) -> dict[str, Any]:
        resize = _step(words["steps"], "resize_crop")
        normal = _step(encoder["steps"], "normalize")
        size = int(resize["size"])
        return {
            "crop_size": {"height": size, "width": size},
            "image_mean": list(normal["mean"]),
            "image_std": list(normal["std"]),
            "size": {"shortest_edge": int(resize.get("shortest_edge", size))},
        }

    def options(self, words: Facts) -> dict[str, Any]:
        pads = self.name == "image" and words["steps"][0]["kind"] == "pad"
        return {"pad_non_square_images": True} if pads else {}


def _side(said: Any, default: int) -> int:
    """A size in a processor's configuration: a number, or a table."""
    if isinstance(said, Mapping):
        said = said.get("shortest_edge", said.get("height"))
    return int(said) if said is not None else default


class Heard(Sense):
    """Speech and sounds, whose one step has the words of the feature extractor beside the weights."""

    def fit(self, words: Words, encoder: Words, place: Path, options: Facts) -> Any:
        super().fit(words, encoder, place, options)
        told, step = read_json(place / PREPROCESSOR) or {}, encoder["steps"][0]
        known = STEPS.load(step["kind"]).model_fields
        step |= {word: told[word] for word in known if told.get(word) is not None}
        if "fusion" in known and told.get("truncation", "fusion") != "fusion":
            step["fusion"] = False

    def prepared(self, words: Facts, encoder: Facts) -> dict[str, Any]:
        step = dict(encoder["steps"][0])
        if step.pop("kind") == "clap_mel":
            step["truncation"] = "fusion" if step.pop("fusion", True) else "rand_trunc"
        return step


class Read(Sense):
    """Documents, whose step has a tokenizer beside the model."""

    def fit(self, words: Words, encoder: Words, place: Path, options: Facts) -> Any:
        super().fit(words, encoder, place, options)
        files = [n for n in ("tokenizer.json", "vocab.txt") if (place / n).is_file()]
        if not files:
            raise CheckpointError(
                "no tokenizer beside the document encoder",
                where=str(place),
                hint="it holds tokenizer.json or vocab.txt",
            )
        step = encoder["steps"][0]
        step["path"] = f"document.{files[0]}"
        # The reference cuts at 512 whatever the tokenizer says; a shorter encoder cannot take so many.
        most = int(encoder[self.config].get("max_position_embeddings", 512))
        if most < 512:
            step["max_length"] = most

    def carried(self, words: Facts, place: Path) -> dict[str, Path]:
        path = str(encoder_of(words)["steps"][0]["path"])
        folder = place if place.is_dir() else place.parent
        return {path: folder / path.removeprefix("document.")}
