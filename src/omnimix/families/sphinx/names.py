"""Rename tables of SPHINX: Meta's Llama keys and the original keys of its four encoders.

See golden/specs/sphinx.md sections 3 and 5. `table` puts them together; a model of the family that has more
(SPHINX-V's region prompts) is this table and another one added to it.
"""

from __future__ import annotations

from torch import Tensor

from omnimix.checkpoints.shards import Cuts
from omnimix.checkpoints.tables import Change, Ignore, Rename, RenameTable, Rule
from omnimix.encoders import positions

PREFIX = "llma."

QFORMER = "image.branches.0.encoders.0."
CLIP = "image.branches.1.encoders.0.trunk."
CONVNEXT = "image.branches.1.encoders.1.trunk."
DINO = "image.branches.1.encoders.2.trunk."

CUTS: Cuts = {
    **{f"{PREFIX}layers.*.attention.{name}.weight": 0 for name in ("wq", "wk", "wv")},
    f"{PREFIX}layers.*.attention.wo.weight": 1,
    **{f"{PREFIX}layers.*.feed_forward.{name}.weight": 0 for name in ("w1", "w3")},
    f"{PREFIX}layers.*.feed_forward.w2.weight": 1,
    f"{PREFIX}tok_embeddings.weight": 1,
    f"{PREFIX}output.weight": 0,
}
"""fairscale's column and row parallel layers; everything else is whole in every shard."""

_LAYER = {
    "attention.wo": "self_attn.o_proj",
    "attention.wv": "self_attn.v_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}

_CLIP = {
    "ln_1": "norm1",
    "ln_2": "norm2",
    "attn.out_proj": "attn.proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


def halves(weight: Tensor, heads: int) -> Tensor:
    """Rows of a query or key matrix from Meta's rotary order (pairs side by side) to transformers' (halves)."""
    rows, *rest = weight.shape
    return weight.view(heads, rows // heads // 2, 2, *rest).transpose(1, 2).reshape(rows, *rest)


def pairs(weight: Tensor, heads: int) -> Tensor:
    """The way back of `halves`."""
    rows, *rest = weight.shape
    return weight.view(heads, 2, rows // heads // 2, *rest).transpose(1, 2).reshape(rows, *rest)


def _turned(theirs: str, ours: str, heads: int) -> Change:
    return Change(theirs, ours, lambda w: halves(w, heads), lambda w: pairs(w, heads))


def language(heads: int, kv_heads: int, prefix: str = PREFIX) -> RenameTable:
    """Meta's keys of a Llama."""
    layer, ours = f"{prefix}layers.*.", "language.model.layers.*."
    return RenameTable(
        _turned(f"{layer}attention.wq.weight", f"{ours}self_attn.q_proj.weight", heads),
        _turned(f"{layer}attention.wk.weight", f"{ours}self_attn.k_proj.weight", kv_heads),
        *(Rename(f"{layer}{a}.weight", f"{ours}{b}.weight") for a, b in _LAYER.items()),
        Rename(f"{prefix}tok_embeddings.weight", "language.model.embed_tokens.weight"),
        Rename(f"{prefix}norm.weight", "language.model.norm.weight"),
        Rename(f"{prefix}output.weight", "language.lm_head.weight"),
        Ignore(f"{prefix}rope.freqs", "computed, not learned"),
    )


def clip(prefix: str = f"{PREFIX}clip.", ours: str = CLIP) -> RenameTable:
    """open_clip's keys of a CLIP vision tower; its text tower is used by nobody."""
    theirs = f"{prefix}visual."
    block, own = f"{theirs}transformer.resblocks.*.", f"{ours}blocks.*."
    rules: list[Rule] = [
        Change(
            f"{theirs}class_embedding",
            f"{ours}cls_token",
            lambda t: t.view(1, 1, -1),
            lambda t: t.reshape(-1),
        ),
        Change(
            f"{theirs}positional_embedding", f"{ours}pos_embed", lambda t: t[None], lambda t: t[0]
        ),
        Rename(f"{theirs}conv1.weight", f"{ours}patch_embed.proj.weight"),
        Rename(f"{theirs}ln_pre.*", f"{ours}norm_pre.*"),
        Rename(f"{theirs}ln_post.*", f"{ours}norm.*"),
        *(Rename(f"{block}attn.in_proj_{end}", f"{own}attn.qkv.{end}") for end in _ENDS),
        *(
            Rename(f"{block}{a}.{end}", f"{own}{b}.{end}")
            for a, b in _CLIP.items()
            for end in _ENDS
        ),
        Ignore(f"{theirs}proj", "the projection into CLIP's common space is not used"),
    ]
    text = ("token_embedding.*", "positional_embedding", "text_projection", "transformer.*")
    rest = (*text, "ln_final.*", "logit_scale", "logit_bias", "attn_mask")
    rules += [Ignore(f"{prefix}{key}", "the text tower of CLIP is used by nobody") for key in rest]
    return RenameTable(*rules)


_ENDS = ("weight", "bias")


def convnext(prefix: str = f"{PREFIX}openclip_convnext_xxl.", ours: str = CONVNEXT) -> RenameTable:
    """open_clip's ConvNeXt trunk, which is timm's; its norm stands before the pooling left out here."""
    return RenameTable(
        Rename(f"{prefix}head.norm.*", f"{ours}norm_pre.*"), Rename(f"{prefix}*", f"{ours}*")
    )


def dino(prefix: str = f"{PREFIX}dinov2_vitg14.", ours: str = DINO) -> RenameTable:
    """facebookresearch's DINOv2; the gated network of a block has other names in timm."""
    block, own = f"{prefix}blocks.*.mlp.", f"{ours}blocks.*.mlp."
    return RenameTable(
        Ignore(f"{prefix}mask_token", "used in pretraining only"),
        Rename(f"{prefix}pos_embed", f"{ours}{positions.NAME}"),
        *(Rename(f"{block}w12.{end}", f"{own}fc1.{end}") for end in _ENDS),
        *(Rename(f"{block}w3.{end}", f"{own}fc2.{end}") for end in _ENDS),
        Rename(f"{prefix}*", f"{ours}*"),
    )


def framed(name: str, start: str, end: str) -> RenameTable:
    """Learned vectors `[1, 1, d]` around the tokens of a modality."""
    return RenameTable(
        *(
            Change(
                f"{PREFIX}{theirs}",
                f"{name}.frame.{side}",
                lambda t: t.reshape(-1),
                lambda t: t[None, None],
            )
            for side, theirs in (("start", start), ("end", end))
        )
    )


def image() -> RenameTable:
    """The four encoders, their two projections and the frame."""
    return (
        RenameTable(
            Rename(f"{PREFIX}qformer.*", f"{QFORMER}*"),
            Rename(f"{PREFIX}qformer_proj.*", "image.branches.0.connector.*"),
            Rename(f"{PREFIX}visual_proj.*", "image.branches.1.connector.*"),
        )
        + clip()
        + convnext()
        + dino()
        + framed("image", "start_img", "end_img")
    )


def table(heads: int, kv_heads: int, *more: RenameTable) -> RenameTable:
    """All keys of a model of the family.

    Args:
        heads, kv_heads: of the language model.
        more: tables of further modalities.
    """
    rules = [rule for found in (image(), *more, language(heads, kv_heads)) for rule in found.rules]
    return RenameTable(*rules)
