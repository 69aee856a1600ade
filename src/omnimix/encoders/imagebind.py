"""ImageBind: pictures, sounds and texts as one vector each, in one space.

Girdhar et al., ImageBind: One Embedding Space To Bind Them All (2023). transformers has no such model. The
names of the parameters are those of the published checkpoint, so that one of its trunks may be left out by
leaving out its keys.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import torch
from annotated_types import Gt
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.nn import functional

from omnimix.config import Spec
from omnimix.encoders.base import Encoder, EncoderSpec, Features
from omnimix.errors import RecipeError

Whole = Annotated[int, Gt(0)]
_EPS = 1e-6
_SCALE = 20.0


class Trunk(Spec):
    """Sizes of one trunk.

    Attributes:
        width: of its tokens.
        blocks: transformer blocks.
        heads: of an attention.
    """

    width: Whole
    blocks: Whole
    heads: Whole


class ImageBind(EncoderSpec):
    """ImageBind's trunks of pictures, sounds and texts; a trunk that is None is not built.

    What a tile is, its shape says: `[3, size, size]` a picture, `[clips, 1, bins, frames]` a sound (the step
    `imagebind_sound`), `[tokens]` a text. The vectors of a sound's clips are averaged. Those of sounds and
    texts are scaled (by 20, and by a learned number), those of pictures are not, as published.

    Attributes:
        vision: trunk of pictures.
        audio: trunk of sounds.
        text: trunk of texts.
        width: of the joint space.
        size: side of a picture in pixels.
        patch: side of its patches.
        bins: Mel bands of a clip.
        frames: of a clip.
        vocabulary: of the tokenizer of texts.
        context: most tokens of a text.
    """

    kind: Literal["imagebind"] = "imagebind"
    vision: Trunk | None = Trunk(width=1280, blocks=32, heads=16)
    audio: Trunk | None = Trunk(width=768, blocks=12, heads=12)
    text: Trunk | None = None
    width: Whole = 1024
    size: Whole = 224
    patch: Whole = 14
    bins: Whole = 128
    frames: Whole = 204
    vocabulary: Whole = 49408
    context: Whole = 77

    def build(self, source: Features | None = None) -> Encoder:
        return ImageBindTower(self)


class ImageBindTower(Encoder):
    """See `ImageBind`."""

    def __init__(self, spec: ImageBind) -> None:
        super().__init__()
        before: dict[str, nn.Module] = {}
        heads: dict[str, nn.Module] = {}
        trunks: dict[str, nn.Module] = {}
        after: dict[str, nn.Module] = {}
        for name in ("vision", "audio", "text"):
            words: Trunk | None = getattr(spec, name)
            if words is None:
                continue
            before[name] = _FRONTS[name](spec, words.width)
            trunks[name] = _Blocks(words, name)
            heads[name] = _head(name, words.width, spec.width)
            if name != "vision":
                after[name] = nn.ModuleList([nn.Identity(), _Scale(learned=name == "text")])
        self.modality_preprocessors = nn.ModuleDict(before)
        self.modality_trunks = nn.ModuleDict(trunks)
        self.modality_heads = nn.ModuleDict(heads)
        self.modality_postprocessors = nn.ModuleDict(after)
        self.features = Features(1, spec.width)

    def forward(self, tiles: Shaped[Tensor, "tiles ..."]) -> Float[Tensor, "tiles 1 d"]:
        """Raises RecipeError for tiles of a kind that has no trunk."""
        name = {2: "text", 4: "vision", 5: "audio"}.get(tiles.ndim, "nothing")
        if name not in self.modality_trunks:
            raise RecipeError(
                f"this ImageBind has no trunk for tiles of shape {list(tiles.shape[1:])}",
                hint="it takes pictures, sounds and texts whose trunk the recipe names",
            )
        if name == "audio":
            clips: Tensor = self._run(name, tiles.flatten(0, 1)).unflatten(0, tiles.shape[:2])
            return clips.mean(dim=1, keepdim=True)
        return self._run(name, tiles)[:, None]

    def _run(self, name: str, tiles: Tensor) -> Float[Tensor, "tiles d"]:
        tokens = self.modality_preprocessors[name](tiles)
        states: Tensor = self.modality_trunks[name](tokens)
        head: Any = self.modality_heads[name]
        if name == "text":
            # The end token has the largest id; what stands behind it was not looked at.
            last = tiles.argmax(dim=1)
            found: Tensor = head["proj"](states[torch.arange(len(tiles)), last])
        else:
            found = head[2](head[0](states[:, 0]))
        found = functional.normalize(found, dim=-1)
        if name in self.modality_postprocessors:
            scale: Any = self.modality_postprocessors[name]
            found = scale[1](found)
        return found


def _head(name: str, width: int, out: int) -> nn.Module:
    if name == "text":
        norm = nn.LayerNorm(width, eps=_EPS)
        return nn.ModuleDict({"proj": nn.Sequential(norm, nn.Linear(width, out, bias=False))})
    return nn.ModuleList(
        [nn.LayerNorm(width, eps=_EPS), nn.Identity(), nn.Linear(width, out, bias=False)]
    )


class _Scale(nn.Module):
    """Times e to a number that is learned or not, at most 100."""

    log_logit_scale: Tensor

    def __init__(self, learned: bool) -> None:
        super().__init__()
        start = torch.tensor(math.log(_SCALE))
        if learned:
            self.log_logit_scale = nn.Parameter(start)
        else:
            self.register_buffer("log_logit_scale", start)

    def forward(self, x: Float[Tensor, "tiles d"]) -> Float[Tensor, "tiles d"]:
        return x * self.log_logit_scale.exp().clamp(max=100)


class _Positions(nn.Module):
    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.empty(1, tokens, width).normal_(std=0.02))


class _Front(nn.Module):
    """A class token and patches, with positions."""

    def __init__(self, patches: int, width: int) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.empty(1, 1, width).normal_(std=width**-0.5))
        self.pos_embedding_helper = _Positions(patches + 1, width)

    def placed(self, patches: Float[Tensor, "tiles n d"]) -> Float[Tensor, "tiles n2 d"]:
        first = self.cls_token.expand(len(patches), -1, -1)
        return torch.cat([first, patches], dim=1) + self.pos_embedding_helper.pos_embed


class _VisionFront(_Front):
    """Patches of two frames: a picture is seen twice, since the trunk is one for films."""

    def __init__(self, spec: ImageBind, width: int) -> None:
        super().__init__((spec.size // spec.patch) ** 2, width)
        size = (2, spec.patch, spec.patch)
        patches = nn.Conv3d(3, width, kernel_size=size, stride=size, bias=False)
        self.rgbt_stem = nn.ModuleDict({"proj": nn.ModuleList([nn.Identity(), patches])})

    def forward(self, tiles: Float[Tensor, "tiles 3 h w"]) -> Float[Tensor, "tiles n d"]:
        stem: Any = self.rgbt_stem["proj"]
        twice = tiles[:, :, None].expand(-1, -1, 2, -1, -1)
        return self.placed(stem[1](twice).flatten(2).transpose(1, 2))


class _AudioFront(_Front):
    """Overlapping patches of a spectrogram."""

    kernel, stride = 16, 10

    def __init__(self, spec: ImageBind, width: int) -> None:
        rows, columns = (
            (side - self.kernel) // self.stride + 1 for side in (spec.bins, spec.frames)
        )
        super().__init__(rows * columns, width)
        patches = nn.Conv2d(1, width, self.kernel, stride=self.stride, bias=False)
        self.rgbt_stem = nn.ModuleDict({"proj": patches, "norm_layer": nn.LayerNorm(width)})

    def forward(self, tiles: Float[Tensor, "clips 1 bins frames"]) -> Float[Tensor, "clips n d"]:
        patches = self.rgbt_stem["proj"](tiles).flatten(2).transpose(1, 2)
        return self.placed(self.rgbt_stem["norm_layer"](patches))


class _TextFront(nn.Module):
    """Embedded tokens with positions."""

    mask: Tensor

    def __init__(self, spec: ImageBind, width: int) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(spec.vocabulary, width)
        self.pos_embed = nn.Parameter(torch.empty(1, spec.context, width).normal_(std=0.01))
        # Held by the published checkpoint; what it says is said to the attention as `is_causal`.
        self.register_buffer("mask", torch.full((spec.context, spec.context), -math.inf).triu(1))
        nn.init.normal_(self.token_embedding.weight, std=0.02)

    def forward(self, tiles: Int[Tensor, "tiles n"]) -> Float[Tensor, "tiles n d"]:
        if tiles.shape[1] > self.pos_embed.shape[1]:
            raise RecipeError(
                f"a text of {tiles.shape[1]} tokens is longer than {self.pos_embed.shape[1]}",
                hint="lower the word 'max_length' of the step tokenize",
            )
        found: Tensor = self.token_embedding(tiles.clamp(min=0))
        return found + self.pos_embed[:, : tiles.shape[1]]


_FRONTS: dict[str, Any] = {"vision": _VisionFront, "audio": _AudioFront, "text": _TextFront}


class _Blocks(nn.Module):
    """A transformer; that of pictures norms its input, that of sounds has a learned key and value."""

    def __init__(self, words: Trunk, name: str) -> None:
        super().__init__()
        self.causal = name == "text"
        self.pre_transformer_layer = nn.ModuleList(
            [nn.LayerNorm(words.width, eps=_EPS) if name == "vision" else nn.Identity()]
        )
        self.blocks = nn.ModuleList(_Block(words, name == "audio") for _ in range(words.blocks))

    def forward(self, tokens: Float[Tensor, "tiles n d"]) -> Float[Tensor, "tiles n d"]:
        tokens = self.pre_transformer_layer[0](tokens)
        mask = None
        if self.causal:
            mask = nn.Transformer.generate_square_subsequent_mask(
                tokens.shape[1], device=tokens.device, dtype=tokens.dtype
            )
        for block in self.blocks:
            tokens = block(tokens, mask)
        return tokens


class _Block(nn.Module):
    def __init__(self, words: Trunk, biased: bool) -> None:
        super().__init__()
        width = words.width
        self.attn = nn.MultiheadAttention(width, words.heads, add_bias_kv=biased, batch_first=True)
        self.norm_1 = nn.LayerNorm(width, eps=_EPS)
        self.mlp = nn.ModuleDict(
            {"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)}
        )
        self.norm_2 = nn.LayerNorm(width, eps=_EPS)

    def forward(
        self, x: Float[Tensor, "tiles n d"], mask: Tensor | None
    ) -> Float[Tensor, "tiles n d"]:
        near = self.norm_1(x)
        x = x + self.attn(near, near, near, need_weights=False, attn_mask=mask)[0]
        wide: Tensor = functional.gelu(self.mlp["fc1"](self.norm_2(x)))
        deeper: Tensor = self.mlp["fc2"](wide)
        return x + deeper
