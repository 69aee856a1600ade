"""Vision trunks of timm: any ViT by block, any convolutional net by its last map."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional

from omnimix.encoders.base import Encoder, EncoderSpec, Features
from omnimix.errors import RecipeError
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
    """A timm model cut to the layer the recipe asks for."""

    def __init__(self, spec: TimmEncoder) -> None:
        super().__init__()
        import timm  # slow to import, and only needed here

        if not timm.is_model(spec.model):
            near = did_you_mean(spec.model.split(".")[0], timm.list_models())
            hint = near if near.startswith("did") else "timm.list_models() lists them"
            raise RecipeError(f"timm has no model {spec.model!r}", hint=hint)
        args: dict[str, Any] = {**spec.args, "num_classes": 0}
        vit = "vit" in spec.model.split(".")[0] or "img_size" in args
        if vit:
            args.setdefault("img_size", spec.size)
            args.setdefault("global_pool", "")
        if spec.stem in _STEMS:
            args["embed_layer"] = _STEMS[spec.stem]
        try:
            self.trunk = timm.create_model(spec.model, pretrained=False, **args)
        except TypeError as error:
            raise RecipeError(f"timm's {spec.model} cannot be built ({error})") from None
        self.layer = spec.layer
        self.norm = spec.norm
        embed = getattr(self.trunk, "patch_embed", None)
        if embed is not None and hasattr(embed, "grid_size"):
            rows, columns = embed.grid_size
            prefix = int(getattr(self.trunk, "num_prefix_tokens", 0))
        else:
            stride = int(self.trunk.feature_info[-1]["reduction"])
            rows = columns = math.ceil(spec.size / stride)
            prefix = 0
        self.features = Features(
            rows * columns + prefix, int(self.trunk.num_features), (rows, columns), prefix
        )
        if self.layer != -1:
            self._cut()

    def _cut(self) -> None:
        """Drop what lies behind the layer that is read, so that it costs neither time nor memory."""
        blocks = self.trunk.blocks
        depth = len(blocks)
        index = self.layer + depth if self.layer < 0 else self.layer
        if not 0 <= index < depth:
            raise RecipeError(f"layer {self.layer} is outside a trunk of {depth} blocks")
        self.trunk.blocks = nn.Sequential(*list(blocks)[: index + 1])

    def forward(self, tiles: Shaped[Tensor, "tiles 3 h w"]) -> Float[Tensor, "tiles n d"]:
        if not self.norm and hasattr(self.trunk, "norm"):
            self.trunk.norm, kept = nn.Identity(), self.trunk.norm
            try:
                features: Tensor = self.trunk.forward_features(tiles)
            finally:
                self.trunk.norm = kept
        else:
            features = self.trunk.forward_features(tiles)
        if features.ndim == 4:
            features = features.flatten(2).transpose(1, 2)
        return features

    def init_non_persistent_buffers(self) -> None:
        for module in self.trunk.modules():
            if hasattr(module, "init_non_persistent_buffers"):
                module.init_non_persistent_buffers()


class TimmEncoder(EncoderSpec):
    """A timm trunk.

    Attributes:
        model: timm's name, `vit_large_patch14_reg4_dinov2` for instance.
        size: side of a tile in pixels.
        layer: index of the last block that runs; -2 is the second to last (Prismatic, LLaVA).
        norm: whether the trunk's final norm is applied.
        stem: `conv` puts overlapping convolutions in place of the patch embedding, `residual` a small
            residual net.
        args: further arguments of the timm constructor.
    """

    kind: Literal["timm"] = "timm"
    model: str
    size: int = 224
    layer: int = -1
    norm: bool = True
    stem: Literal["patch", "conv", "residual"] = "patch"
    args: dict[str, Any] = {}

    def build(self, source: Features | None = None) -> Encoder:
        return TimmTrunk(self)
