"""Vision trunks of timm: a transformer by block, everything else by its last map."""

from __future__ import annotations

import inspect
import math
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Shaped
from pydantic import model_validator
from torch import Tensor, nn
from torch.nn import functional

from omnimix.encoders.base import Encoder, EncoderSpec, Features
from omnimix.encoders.positions import PositionsSpec
from omnimix.errors import RecipeError
from omnimix.hub import read_json
from omnimix.registry import did_you_mean


class ConvStem(nn.Module):
    """Overlapping convolutions in place of a patch embedding, with the face of timm's `PatchEmbed`.

    At small scale such a stem learns sooner than plain patches (Xiao et al. 2021, "Early convolutions
    help transformers see better"). This one is 3x3 convolutions of stride 2.
    """

    def __init__(
        self,
        img_size: int = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        embed_dim: int = 256,
        bias: bool = True,
        **_: Any,
    ) -> None:
        super().__init__()
        side = img_size // patch_size
        self.grid_size = (side, side)
        self.num_patches = side * side
        self.patch_size = (patch_size, patch_size)
        layers, width = self._layers(int(math.log2(patch_size)), in_chans, embed_dim)
        self.stem = nn.Sequential(*layers)
        self.proj = nn.Conv2d(width, embed_dim, 1, bias=bias)

    def _layers(self, halvings: int, width: int, embed_dim: int) -> tuple[list[nn.Module], int]:
        """The layers that halve the picture's sides so often, and their last width."""
        layers: list[nn.Module] = []
        for stage in range(halvings):
            # 3/16 of the final width, doubled at each stage: 48, 96, 192, 256 for a width of 256.
            out = min(embed_dim, (embed_dim * 3 // 16) * 2**stage)
            layers += _halving(width, out)
            width = out
        return layers, width

    def forward(self, pixels: Float[Tensor, "tiles 3 h w"]) -> Float[Tensor, "tiles n d"]:
        # Convolutions on a CPU are a quarter quicker with the channels last.
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        found: Tensor = self.proj(self.stem(pixels))
        return found.flatten(2).transpose(1, 2)

    def feat_ratio(self, as_scalar: bool = True) -> int | tuple[int, int]:
        """Pixels per token side, as timm's feature info asks for it."""
        return self.patch_size[0] if as_scalar else self.patch_size


class ResidualStem(ConvStem):
    """A small residual net (He et al. 2016) as a stem: 7x7 of stride 4, then per halving a 3x3 and a block.

    Quicker than 3x3 convolutions from full size on, and shapes are learned before attention has to.
    """

    def _layers(self, halvings: int, width: int, embed_dim: int) -> tuple[list[nn.Module], int]:
        out = embed_dim // 2 ** (halvings - 2)
        layers = _halving(width, out, kernel=7, stride=4)
        for _ in range(halvings - 2):
            layers += [*_halving(out, out * 2), _Residual(out * 2)]
            out *= 2
        # What all cells have in common is taken out: features of fresh weights are nearly the same
        # everywhere otherwise, and what tells one place from another has to be found in the rest.
        layers += [nn.Conv2d(out, out, 1, bias=False), nn.BatchNorm2d(out)]
        return layers, out


def _halving(width: int, out: int, kernel: int = 3, stride: int = 2) -> list[nn.Module]:
    """A convolution with norm and activation that makes a map smaller."""
    convolution = nn.Conv2d(width, out, kernel, stride=stride, padding=kernel // 2, bias=False)
    return [convolution, nn.BatchNorm2d(out), nn.GELU()]


class _Residual(nn.Module):
    """Two 3x3 convolutions beside a short cut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            *_halving(width, width, stride=1),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Float[Tensor, "tiles d h w"]) -> Float[Tensor, "tiles d h w"]:
        return functional.gelu(x + self.convs(x))


_STEMS: dict[str, type[ConvStem]] = {"conv": ConvStem, "residual": ResidualStem}


class TimmTrunk(Encoder):
    """A timm model cut to the layer the recipe asks for.

    What it gives is read off a forward pass on the meta device (no memory, no arithmetic), so that the
    sizes are right for every model of timm, whatever it calls its parts.
    """

    def __init__(self, spec: TimmEncoder) -> None:
        super().__init__()
        self.layer = spec.layer
        self.norm = spec.norm
        with torch.device("meta"):
            args, twin = _fitted(spec)
            self.trunk = self._cut(twin)
            self.features = self._probe(spec)
        if torch.get_default_device().type != "meta":
            self.trunk = self._cut(_create(spec, args))

    def _cut(self, trunk: Any) -> Any:
        """Drop what lies behind the layer that is read, so that it costs neither time nor memory."""
        if self.layer == -1:
            return trunk
        blocks = getattr(trunk, "blocks", None)
        if not isinstance(blocks, nn.Sequential | nn.ModuleList) or _is_staged(trunk):
            raise RecipeError(
                f"layer {self.layer} cannot be read: the trunk is no plain row of blocks",
                hint="leave 'layer' out to read its last map",
            )
        depth = len(blocks)
        index = self.layer + depth if self.layer < 0 else self.layer
        if not 0 <= index < depth:
            raise RecipeError(f"layer {self.layer} is outside a trunk of {depth} blocks")
        kept = list(blocks)[: index + 1]
        sequential = isinstance(blocks, nn.Sequential)
        trunk.blocks = nn.Sequential(*kept) if sequential else nn.ModuleList(kept)
        return trunk

    def _probe(self, spec: TimmEncoder) -> Features:
        """Sizes of the features of one tile.

        Raises:
            RecipeError: the model cannot take tiles of this size, or gives no map and no tokens.
        """
        was = self.trunk.training
        self.trunk.eval()
        try:
            with torch.no_grad():
                found = self._run(torch.zeros(1, 3, spec.img_size, spec.img_size))
        except (RuntimeError, AssertionError, ValueError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
            native = self.trunk.default_cfg.get("input_size", (3, "?", "?"))[-1]
            raise RecipeError(
                f"timm's {spec.model} cannot take tiles of {spec.img_size} px ({reason})",
                hint=f"its own size is {native}",
            ) from None
        finally:
            self.trunk.train(was)
        if not isinstance(found, Tensor) or found.ndim not in (3, 4):
            raise RecipeError(
                f"timm's {spec.model} gives neither a map nor a row of tokens",
                hint="choose a model with one trunk whose features are not pooled",
            )
        if found.ndim == 4:
            _, rows, columns, width = (
                found.shape if self._last(found) else found.movedim(1, -1).shape
            )
            return Features(rows * columns, width, (rows, columns))
        _, tokens, width = found.shape
        grid, prefix = _laid_out(self.trunk, tokens)
        return Features(tokens, width, grid, prefix)

    def _last(self, features: Tensor) -> bool:
        """Whether a map has its channels last (swin, sequencer)."""
        return getattr(self.trunk, "output_fmt", "NCHW") == "NHWC"

    def _run(self, tiles: Tensor) -> Any:
        if self.norm or not hasattr(self.trunk, "norm"):
            return self.trunk.forward_features(tiles)
        self.trunk.norm, kept = nn.Identity(), self.trunk.norm
        try:
            return self.trunk.forward_features(tiles)
        finally:
            self.trunk.norm = kept

    def forward(self, tiles: Shaped[Tensor, "tiles 3 h w"]) -> Float[Tensor, "tiles n d"]:
        features: Tensor = self._run(tiles)
        if features.ndim == 4 and self._last(features):
            return features.flatten(1, 2)
        return features.flatten(2).transpose(1, 2) if features.ndim == 4 else features

    def init_non_persistent_buffers(self) -> None:
        for module in self.trunk.modules():
            if hasattr(module, "init_non_persistent_buffers"):
                module.init_non_persistent_buffers()


def _create(spec: TimmEncoder, args: dict[str, Any]) -> Any:
    import timm  # slow to import, and only needed here

    if not timm.is_model(spec.model):
        near = did_you_mean(spec.model.split(".")[0], timm.list_models())
        hint = near if near.startswith("did") else "timm.list_models() lists them"
        raise RecipeError(f"timm has no model {spec.model!r}", hint=hint)
    trunk = timm.create_model(spec.model, pretrained=False, **args)
    if spec.positions is not None:
        spec.positions.install(trunk)
    return trunk


def _released(name: str) -> Any:
    """What timm knows of pretrained weights by their tag; None where it knows none."""
    import timm

    model, dot, _ = name.partition(".")
    known = dot and timm.is_model(model) and name in timm.list_pretrained(f"{model}.*")
    return timm.get_pretrained_cfg(name) if known else None


def _default(name: str) -> dict[str, Any]:
    """What timm says of a model's pictures: `input_size`, `mean`, `std`."""
    import timm

    found = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    return {} if found is None else found.to_dict()


def _fitted(spec: TimmEncoder) -> tuple[dict[str, Any], Any]:
    """The arguments with which timm builds the model for tiles of `size`, and the model.

    Which models take a size is asked of timm, by trying: some constructors hide it behind `**kwargs`.
    Transformers whose head pools are built without pooling, so that their last norm belongs to the features.
    """
    args: dict[str, Any] = {**spec.args, "num_classes": 0}
    if spec.stem in _STEMS:
        args["embed_layer"] = _STEMS[spec.stem]
    sized = {"img_size": spec.img_size}
    for ours in ({**sized, "global_pool": ""}, sized, {}):
        unpooled = "global_pool" in ours and "global_pool" not in args
        try:
            trunk = _create(spec, {**ours, **args})
        except TypeError as error:
            if any(word in str(error) for word in ours if word not in args):
                continue
            raise RecipeError(f"timm's {spec.model} cannot be built ({error})") from None
        except (AssertionError, ValueError, RuntimeError) as error:
            if unpooled:
                continue
            reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
            raise RecipeError(
                f"timm's {spec.model} cannot be built for tiles of {spec.img_size} px ({reason})"
            ) from None
        if unpooled and not _pools_tokens(trunk):
            continue
        return {**ours, **args}, trunk
    raise AssertionError("the last round adds no words of ours")


def _pools_tokens(trunk: Any) -> bool:
    """Whether the model is a row of blocks over tokens whose pooling is chosen by `global_pool`."""
    words = inspect.signature(type(trunk).__init__).parameters
    return "global_pool" in words and hasattr(trunk, "blocks") and not _is_staged(trunk)


def _is_staged(trunk: Any) -> bool:
    """Whether the blocks are stages of falling resolution instead of equal layers."""
    info = getattr(trunk, "feature_info", None)
    if not isinstance(info, list):
        return False
    return len({int(layer["reduction"]) for layer in info}) > 1


def _laid_out(trunk: Any, tokens: int) -> tuple[tuple[int, int] | None, int]:
    """Rows and columns of the patches among the tokens, and how many tokens stand before them."""
    prefix = getattr(trunk, "num_prefix_tokens", None)
    for before in (0, 1) if prefix is None else (int(prefix),):
        side = math.isqrt(max(tokens - before, 0))  # tiles are square
        if side and side * side == tokens - before:
            return (side, side), before
    return None, 0


_PLACES = frozenset(
    {"checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"}
)


class TimmEncoder(EncoderSpec):
    """A timm trunk.

    Attributes:
        model: timm's name, `vit_large_patch14_reg4_dinov2` for instance.
        img_size: side of a tile in pixels; handed to every model that is built for a size.
        layer: index of the last block that runs; -2 is the second to last (arXiv:2402.07865, LLaVA).
        norm: whether the trunk's final norm is applied.
        stem: `conv` puts overlapping convolutions in place of the patch embedding, `residual` a small
            residual net.
        positions: the table of positions is stored on another grid than the tile's.
        args: further arguments of the timm constructor.
    """

    kind: Literal["timm"] = "timm"
    model: str
    img_size: int = 224
    layer: int = -1
    norm: bool = True
    stem: Literal["patch", "conv", "residual"] = "patch"
    positions: PositionsSpec | None = None
    args: dict[str, Any] = {}

    @model_validator(mode="after")
    def _names_no_place(self) -> TimmEncoder:
        """A recipe comes from anybody: timm would fetch or open what some of its words name."""
        if not re.fullmatch(r"[\w.-]+", self.model):
            raise ValueError(
                f"{self.model!r} names a place, where a model of timm itself is wanted"
            )
        if places := sorted(_PLACES & self.args.keys()):
            raise ValueError(
                f"args may not say {places[0]!r}: weights come from the model's folder"
            )
        return self

    @classmethod
    def named(cls, words: Mapping[str, Any]) -> str:
        """A tag of timm (`vit_small_patch14_dinov2.lvd142m`, or `lvd142m` beside a `model`) by its hub id."""
        name = str(words["weights"])
        config = (
            None if "/" in name else _released(name) or _released(f"{words.get('model')}.{name}")
        )
        return str(config.hf_hub_id) if config is not None and config.hf_hub_id else name

    @classmethod
    def complete(cls, words: Mapping[str, Any], place: Path) -> dict[str, Any]:
        said = read_json(place / "config.json") or {} if place.is_dir() else {}
        name = words.get("model") or said.get("architecture")
        if not isinstance(name, str):
            return dict(words)
        known = {**_default(name), **said.get("pretrained_cfg", {})}
        below: dict[str, Any] = {"model": name}
        if said.get("architecture") == name and said.get("model_args"):
            words = {**words, "args": {**said["model_args"], **words.get("args", {})}}
        if known.get("input_size"):
            below["img_size"] = known["input_size"][-1]
        if known.get("mean"):
            mean, std = list(known["mean"]), list(known["std"])
            below["steps"] = [{"kind": "normalize", "mean": mean, "std": std}]
        return {**below, **words}

    def stored(
        self, module: nn.Module, tensors: Mapping[str, Tensor], place: Path
    ) -> Mapping[str, Tensor]:
        """Under timm's own names of today, positions and patches resampled as timm does it."""
        trunk: Any = module.trunk
        home = sys.modules[type(trunk).__module__]
        change: Any = getattr(home, "checkpoint_filter_fn", getattr(home, "_filter_fn", None))
        own = {name: tensor.shape for name, tensor in trunk.state_dict().items()}
        fits = {n: t for n, t in tensors.items() if n in own and own[n] == t.shape}
        return tensors if change is None else {**change(dict(tensors), trunk), **fits}

    def fresh(self) -> tuple[str, ...]:
        """A stem of our own is not in timm's files."""
        return () if self.stem == "patch" else ("trunk.patch_embed.*",)

    def tile(self) -> Float[Tensor, "1 3 h w"]:
        return torch.zeros(1, 3, self.img_size, self.img_size)

    def build(self, source: Features | None = None) -> Encoder:
        return TimmTrunk(self)
