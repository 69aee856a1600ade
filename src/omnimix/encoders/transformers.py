"""Vision towers of transformers, built from a small configuration in the recipe."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from omnimix import _transformers
from omnimix._transformers import restore_ids
from omnimix.encoders.base import Encoder, EncoderSpec, Features
from omnimix.encoders.hub_words import completed, loaded, normalized
from omnimix.errors import RecipeError
from omnimix.hf_config import known, make

OURS = ("image_size",)
"""Words of a tower's configuration that are read here, also where its type has none of them."""


class VisionTower(Encoder):
    """CLIP, SigLIP and their like: `hidden_states[layer]`, the normed last state, or the pooled one.

    What it gives is read off a forward pass on the meta device (no memory, no arithmetic), so that nothing
    about a tower is guessed from its name.
    """

    def __init__(self, spec: TransformersVision) -> None:
        super().__init__()
        self.pooled = spec.pooled
        if spec.pooled and spec.layer is not None:
            raise RecipeError(
                "the pooled output is made of the last layer", hint="leave 'layer' out"
            )
        config = make(spec.config, also=OURS)
        self.entry = None if spec.layer is None else _cut(config, spec.layer)
        self.patch = _pair(getattr(config, "patch_size", None))
        self.features = self._probed(config)
        self.tower = _tower(config)

    def _probed(self, config: Any) -> Features:
        with torch.device("meta"):
            self.tower = _tower(config)
            try:
                return self._probe(config)
            except RecipeError as error:
                if "meta tensor" not in error.what:
                    raise
        # It looks at values, which the meta device has not: one layer of it on the CPU gives the same sizes.
        small = copy.deepcopy(config)
        small.num_hidden_layers = min(config.num_hidden_layers, 1)
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            self.tower = _tower(small)
            entry, self.entry = self.entry, None if self.entry is None else min(self.entry, 1)
            try:
                return self._probe(small)
            finally:
                self.entry = entry

    def _probe(self, config: Any) -> Features:
        """Sizes of the features of one tile.

        Raises:
            RecipeError: the tower cannot be run on tiles, or gives neither a map nor tokens.
        """
        size = _pair(getattr(config, "image_size", None))
        if size is None:
            raise RecipeError(
                f"the configuration of {config.model_type} does not say how large a tile is",
                where="config",
                hint="add image_size",
            )
        was = self.tower.training
        try:
            with torch.no_grad(), _transformers.quiet():
                tiles = torch.zeros(2, 3, *size)
                found = self.eval()._run(tiles)
        except Exception as error:  # whatever a tower's code raises is the reason
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise RecipeError(
                f"the tower {config.model_type} cannot be run on tiles of {size[0]} x {size[1]} px "
                f"({reason})",
                where="config",
                hint=_OTHER,
            ) from None
        finally:
            self.tower.train(was)
        if not isinstance(found, Tensor) or found.ndim not in (3, 4):
            what = "no pooled output" if self.pooled else "neither a map nor a row of tokens"
            raise RecipeError(f"{config.model_type} gives {what}", where="config", hint=_OTHER)
        if found.ndim == 4:
            _, width, rows, columns = found.shape
            if rows * size[1] != columns * size[0]:
                raise RecipeError(
                    f"{config.model_type} gives a map of {rows} x {columns} of tiles of {size[0]} x {size[1]} px",
                    where="config",
                    hint=_OTHER,
                )
            return Features(rows * columns, width, (rows, columns))
        _, tokens, width = found.shape
        if self.pooled:
            return Features(tokens, width)
        return Features(tokens, width, *_laid_out(tokens, size, self.patch))

    def _run(self, tiles: Tensor) -> Tensor | None:
        output = self.tower(**self._words(tiles), output_hidden_states=self.entry is not None)
        if self.pooled:
            pooled: Tensor | None = getattr(output, "pooler_output", None)
            return None if pooled is None else pooled.flatten(1)[:, None]
        found: Tensor = (
            output.last_hidden_state if self.entry is None else output.hidden_states[self.entry]
        )
        # Some put all tiles into one row, where they do not see one another (pixtral).
        return found if len(found) == len(tiles) else found.reshape(len(tiles), -1, found.shape[-1])

    def _words(self, tiles: Tensor) -> dict[str, Any]:
        if not _transformers.takes(self.tower, "spatial_shapes"):
            return {"pixel_values": tiles}
        # A row of patches, each with its pixels in the order rows, columns, colours (siglip2).
        assert self.patch is not None
        rows, columns = tiles.shape[2] // self.patch[0], tiles.shape[3] // self.patch[1]
        cut = tiles.unflatten(2, (rows, -1)).unflatten(4, (columns, -1))
        shape = torch.tensor([[rows, columns]], device=tiles.device).expand(len(tiles), 2)
        return {
            "pixel_values": cut.permute(0, 2, 4, 3, 5, 1).flatten(1, 2).flatten(2),
            "pixel_attention_mask": tiles.new_ones(len(tiles), rows * columns, dtype=torch.long),
            "spatial_shapes": shape,
        }

    def forward(self, tiles: Shaped[Tensor, "tiles 3 h w"]) -> Float[Tensor, "tiles n d"]:
        features = self._run(tiles)
        assert features is not None
        return features.flatten(2).transpose(1, 2) if features.ndim == 4 else features

    def init_non_persistent_buffers(self) -> None:
        restore_ids(self)


_OTHER = "choose a tower that takes pictures alone, such as CLIP, SigLIP, DINOv2 or InternVL's"


def _pair(size: Any) -> tuple[int, int] | None:
    if isinstance(size, int):
        return size, size
    return (
        (int(size[0]), int(size[1])) if isinstance(size, list | tuple) and len(size) == 2 else None
    )


def _sized(words: dict[str, Any]) -> dict[str, Any]:
    """The words of a tower that counts its patches in place of pixels (siglip2), with the square tile they make."""
    config = make(words, also=OURS)
    patches, patch = (
        getattr(config, "num_patches", None),
        _pair(getattr(config, "patch_size", None)),
    )
    if hasattr(config, "image_size") or not isinstance(patches, int) or patch is None:
        return words
    side = math.isqrt(patches)
    return {**words, "image_size": [side * patch[0], side * patch[1]]}


def _cut(config: Any, layer: int) -> int:
    """Leave out the layers behind `hidden_states[layer]`, and say which entry it is then, from the front.

    There is one entry more than there are layers; without any layer transformers keeps none.

    Raises:
        RecipeError: a layer that the tower does not have.
    """
    layers = getattr(config, "num_hidden_layers", None)
    if not isinstance(layers, int):
        raise RecipeError(
            f"{config.model_type} does not count its layers", hint="leave 'layer' out"
        )
    index = layer + layers + 1 if layer < 0 else layer
    if not 0 <= index <= layers:
        raise RecipeError(f"layer {layer} is outside a tower of {layers} layers")
    config.num_hidden_layers = max(index, 1)
    return index


def _tower(config: Any) -> Any:
    """The picture side of the model with fresh weights, on the current default device.

    Raises:
        RecipeError: a model that is asked for more than pictures, or that hides some of them.
    """
    from transformers import AutoModel

    try:
        model = AutoModel.from_config(config)
    except (ValueError, TypeError, AttributeError, ImportError) as error:
        line = str(error).strip().splitlines()[0]
        raise RecipeError(f"transformers cannot build {config.model_type} ({line})") from None
    tower = getattr(model, "vision_model", model)
    needs = _transformers.needs(tower)
    if not _transformers.takes(tower, "pixel_values") or {*needs} - {"pixel_values", *_ROWS}:
        raise RecipeError(
            f"the tower {config.model_type} is called with {', '.join(needs)}, not with pictures",
            where="config",
            hint=_OTHER,
        )
    if getattr(config, "mask_ratio", 0):
        raise RecipeError(
            f"{config.model_type} hides patches at random", where="config", hint="add mask_ratio: 0"
        )
    return tower


_ROWS = ("pixel_attention_mask", "spatial_shapes")


MOST_PREFIX = 16
"""Class tokens and registers; what adds more tokens (detection queries) does not put them in front."""


def _laid_out(
    tokens: int, size: tuple[int, int], patch: tuple[int, int] | None
) -> tuple[tuple[int, int] | None, int]:
    """Rows and columns of the patches among the tokens, and how many tokens stand before them.

    Where a tower joins patches, 2 x 2 or more, there are fewer tokens. Without a patch size nothing is said.
    """
    if patch is None:
        return None, 0
    rows, columns = size[0] // patch[0], size[1] // patch[1]
    if 0 <= tokens - rows * columns <= MOST_PREFIX:
        return (rows, columns), tokens - rows * columns
    for joined in (2, 4, 8, 16, 32):
        grid = (rows // joined, columns // joined)
        if grid[0] * grid[1] == tokens:
            return grid, 0
    return None, 0


class TransformersVision(EncoderSpec):
    """A vision tower of transformers.

    Attributes:
        config: words of its configuration, `model_type` among them.
        layer: which entry of `hidden_states` is read (-2: second to last); None reads the last state
            after the final norm.
        pooled: the tower's own pooled output, one vector.
    """

    kind: Literal["transformers"] = "transformers"
    config: Annotated[dict[str, Any], known(also=OURS)]
    layer: int | None = None
    pooled: bool = False

    @classmethod
    def complete(cls, words: Mapping[str, Any], place: Path) -> dict[str, Any]:
        found = normalized(completed(words, place, "vision_config"), place)
        return {**found, "config": _sized(found["config"])} if place.is_dir() else found

    def stored(
        self, module: nn.Module, tensors: Mapping[str, Tensor], place: Path
    ) -> Mapping[str, Tensor]:
        return loaded("AutoModel", place, make(self.config, also=OURS), tensors)

    def tile(self) -> Float[Tensor, "1 3 h w"]:
        size = _pair(getattr(make(self.config, also=OURS), "image_size", None))
        assert size is not None  # it was built
        return torch.zeros(1, 3, *size)

    def build(self, source: Features | None = None) -> Encoder:
        return VisionTower(self)


class QFormerTower(Encoder):
    """ViT, then a Q-Former that asks it with learned queries (BLIP-2)."""

    def __init__(self, spec: Blip2QFormer) -> None:
        super().__init__()
        from transformers import Blip2Config, Blip2QFormerModel, Blip2VisionModel

        config = Blip2Config(
            vision_config=dict(spec.vision_config),
            qformer_config=dict(spec.qformer_config),
            num_query_tokens=spec.num_query_tokens,
        )
        self.vision_model = Blip2VisionModel(config.vision_config)
        self.query_tokens = nn.Parameter(
            torch.zeros(1, spec.num_query_tokens, config.qformer_config.hidden_size)
        )
        self.qformer = Blip2QFormerModel(config.qformer_config)
        self.features = Features(spec.num_query_tokens, int(config.qformer_config.hidden_size))

    def forward(self, tiles: Shaped[Tensor, "tiles 3 h w"]) -> Float[Tensor, "tiles n d"]:
        seen = self.vision_model(pixel_values=tiles).last_hidden_state
        queries = self.query_tokens.expand(seen.shape[0], -1, -1)
        found: Tensor = self.qformer(
            query_embeds=queries, encoder_hidden_states=seen
        ).last_hidden_state
        return found


class Blip2QFormer(EncoderSpec):
    """BLIP-2's vision model and Q-Former: `num_query_tokens` tokens per tile.

    Attributes:
        vision_config: words of transformers' Blip2VisionConfig.
        qformer_config: words of transformers' Blip2QFormerConfig.
        num_query_tokens: number of learned queries.
    """

    kind: Literal["blip2_qformer"] = "blip2_qformer"
    vision_config: Annotated[dict[str, Any], known("blip_2_vision_model")] = {}
    qformer_config: Annotated[dict[str, Any], known("blip_2_qformer")] = {}
    num_query_tokens: int = 32

    def build(self, source: Features | None = None) -> Encoder:
        return QFormerTower(self)
