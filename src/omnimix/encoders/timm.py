"""Vision trunks of timm: any ViT by block, any convolutional net by its last map."""

from __future__ import annotations

import math
from typing import Any, Literal

from jaxtyping import Float, Shaped
from torch import Tensor, nn

from omnimix.encoders.base import Encoder, EncoderSpec, Features
from omnimix.errors import RecipeError
from omnimix.registry import did_you_mean


class ConvStem(nn.Module):
    """Overlapping 3x3 convolutions of stride 2 in place of a patch embedding.

    At small scale such a stem learns sooner than plain patches (Xiao et al. 2021, "Early convolutions
    help transformers see better"). Has the face of timm's `PatchEmbed`.
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
        stages = int(math.log2(patch_size))
        side = img_size // patch_size
        self.grid_size = (side, side)
        self.num_patches = side * side
        self.patch_size = (patch_size, patch_size)
        layers: list[nn.Module] = []
        width = in_chans
        for stage in range(stages):
            # 3/16 of the final width, doubled at each stage: 48, 96, 192, 256 for a width of 256.
            out = min(embed_dim, (embed_dim * 3 // 16) * 2**stage)
            layers += [
                nn.Conv2d(width, out, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(out),
                nn.GELU(),
            ]
            width = out
        self.stem = nn.Sequential(*layers)
        self.proj = nn.Conv2d(width, embed_dim, 1, bias=bias)

    def forward(self, pixels: Float[Tensor, "tiles 3 h w"]) -> Float[Tensor, "tiles n d"]:
        found: Tensor = self.proj(self.stem(pixels))
        return found.flatten(2).transpose(1, 2)

    def feat_ratio(self, as_scalar: bool = True) -> int | tuple[int, int]:
        """Pixels per token side, as timm's feature info asks for it."""
        return self.patch_size[0] if as_scalar else self.patch_size


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
        if spec.stem == "conv":
            args["embed_layer"] = ConvStem
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
        stem: `conv` puts overlapping convolutions in place of the patch embedding.
        args: further arguments of the timm constructor.
    """

    kind: Literal["timm"] = "timm"
    model: str
    size: int = 224
    layer: int = -1
    norm: bool = True
    stem: Literal["patch", "conv"] = "patch"
    args: dict[str, Any] = {}

    def build(self, source: Features | None = None) -> Encoder:
        return TimmTrunk(self)
