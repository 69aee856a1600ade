"""Their keys and our names, both ways: Meta's Llama, and the original keys of the encoders.

See golden/specs/sphinx.md sections 3 and 5, golden/specs/sphinx_v.md section 2.
"""

from __future__ import annotations

from torch import Tensor

from omnimix.checkpoints.shards import Cuts
from omnimix.checkpoints.tables import Change, Ignore, Rename, RenameTable, Rule
from omnimix.compose.recipe import Recipe
from omnimix.encoders import positions

PREFIX = "llma."
LAYER = f"{PREFIX}layers.*."
QFORMER = f"{PREFIX}qformer."
CLIP = f"{PREFIX}clip."
CONVNEXT = f"{PREFIX}openclip_convnext_xxl."
DINO = f"{PREFIX}dinov2_vitg14."
PROMPTS = f"{PREFIX}vp_encoder."

REGION = "region"
"""SPHINX-V's modality of points and boxes in the recipe."""

PROMPT_ENCODER = f"{REGION}.branches.0.encoders.0."
MATRIX = "pe_layer.positional_encoding_gaussian_matrix"

CUTS: Cuts = {
    **{f"{LAYER}attention.{name}.weight": 0 for name in ("wq", "wk", "wv")},
    f"{LAYER}attention.wo.weight": 1,
    **{f"{LAYER}feed_forward.{name}.weight": 0 for name in ("w1", "w3")},
    f"{LAYER}feed_forward.w2.weight": 1,
    f"{PREFIX}tok_embeddings.weight": 1,
    f"{PREFIX}output.weight": 0,
}
"""fairscale's column and row parallel layers; everything else is whole in every shard."""

_ENDS = ("weight", "bias")

_LLAMA = {
    f"{LAYER}attention.wo": "model.layers.*.self_attn.o_proj",
    f"{LAYER}attention.wv": "model.layers.*.self_attn.v_proj",
    f"{LAYER}feed_forward.w1": "model.layers.*.mlp.gate_proj",
    f"{LAYER}feed_forward.w2": "model.layers.*.mlp.down_proj",
    f"{LAYER}feed_forward.w3": "model.layers.*.mlp.up_proj",
    f"{LAYER}attention_norm": "model.layers.*.input_layernorm",
    f"{LAYER}ffn_norm": "model.layers.*.post_attention_layernorm",
    f"{PREFIX}tok_embeddings": "model.embed_tokens",
    f"{PREFIX}norm": "model.norm",
    f"{PREFIX}output": "lm_head",
}

_CLIP = {
    "attn.in_proj_": "attn.qkv.",
    "attn.out_proj.": "attn.proj.",
    "ln_1.": "norm1.",
    "ln_2.": "norm2.",
    "mlp.c_fc.": "mlp.fc1.",
    "mlp.c_proj.": "mlp.fc2.",
}

_CLIP_TEXT = (
    *("token_embedding.*", "positional_embedding", "text_projection", "transformer.*"),
    *("ln_final.*", "logit_scale", "logit_bias", "attn_mask"),
)


def table(recipe: Recipe) -> RenameTable:
    """All keys of a model of the family."""
    words = recipe.language.config
    heads = int(words["num_attention_heads"])
    rules = [*_image(), *_language(heads, int(words.get("num_key_value_heads") or heads))]
    return RenameTable(*rules, *(_region() if REGION in recipe.modalities else ()))


def halves(weight: Tensor, heads: int) -> Tensor:
    """Rows of a query or key matrix from Meta's rotary order (pairs side by side) to transformers' (halves)."""
    rows, *rest = weight.shape
    return weight.view(heads, rows // heads // 2, 2, *rest).transpose(1, 2).reshape(rows, *rest)


def pairs(weight: Tensor, heads: int) -> Tensor:
    """The way back of `halves`."""
    rows, *rest = weight.shape
    return weight.view(heads, 2, rows // heads // 2, *rest).transpose(1, 2).reshape(rows, *rest)


def _language(heads: int, kv_heads: int) -> list[Rule]:
    def turned(theirs: str, ours: str, count: int) -> Change:
        return Change(
            f"{LAYER}attention.{theirs}.weight",
            f"language.model.layers.*.self_attn.{ours}.weight",
            lambda weight: halves(weight, count),
            lambda weight: pairs(weight, count),
        )

    return [
        turned("wq", "q_proj", heads),
        turned("wk", "k_proj", kv_heads),
        *(Rename(f"{theirs}.weight", f"language.{ours}.weight") for theirs, ours in _LLAMA.items()),
        Ignore(f"{PREFIX}rope.freqs", "computed, not learned"),
    ]


def _image() -> list[Rule]:
    """The four encoders, their two projections and the frame."""
    qformer, clip, convnext, dino = (
        "image.branches.0.encoders.0.",
        *(f"image.branches.1.encoders.{i}.trunk." for i in range(3)),
    )
    gated = {"mlp.w12": "mlp.fc1", "mlp.w3": "mlp.fc2"}
    return [
        Rename(f"{QFORMER}*", f"{qformer}*"),
        Rename(f"{PREFIX}qformer_proj.*", "image.branches.0.connector.*"),
        Rename(f"{PREFIX}visual_proj.*", "image.branches.1.connector.*"),
        *_frame("image", "img"),
        *_open_clip(clip),
        # Its norm stands before the pooling, which is left out here.
        Rename(f"{CONVNEXT}head.norm.*", f"{convnext}norm_pre.*"),
        Rename(f"{CONVNEXT}*", f"{convnext}*"),
        Ignore(f"{DINO}mask_token", "used in pretraining only"),
        Rename(f"{DINO}pos_embed", f"{dino}{positions.NAME}"),
        # The gated network of a block has other names in timm.
        *(
            Rename(f"{DINO}blocks.*.{theirs}.{end}", f"{dino}blocks.*.{ours}.{end}")
            for theirs, ours in gated.items()
            for end in _ENDS
        ),
        Rename(f"{DINO}*", f"{dino}*"),
    ]


def _open_clip(ours: str) -> list[Rule]:
    """open_clip's keys of a CLIP vision tower for timm's; its text tower is used by nobody."""
    theirs = f"{CLIP}visual."
    return [
        Change(
            f"{theirs}class_embedding",
            f"{ours}cls_token",
            lambda vector: vector.view(1, 1, -1),
            lambda token: token.reshape(-1),
        ),
        Change(
            f"{theirs}positional_embedding",
            f"{ours}pos_embed",
            lambda rows: rows[None],
            lambda rows: rows[0],
        ),
        Rename(f"{theirs}conv1.weight", f"{ours}patch_embed.proj.weight"),
        Rename(f"{theirs}ln_pre.*", f"{ours}norm_pre.*"),
        Rename(f"{theirs}ln_post.*", f"{ours}norm.*"),
        *(
            Rename(f"{theirs}transformer.resblocks.*.{a}{end}", f"{ours}blocks.*.{b}{end}")
            for a, b in _CLIP.items()
            for end in _ENDS
        ),
        Ignore(f"{theirs}proj", "the projection into CLIP's common space is not used"),
        *(Ignore(f"{CLIP}{key}", "the text tower of CLIP is used by nobody") for key in _CLIP_TEXT),
    ]


def _region() -> list[Rule]:
    """The prompt encoder, its projection and the frame around the prompts."""
    return [
        Rename(f"{PROMPTS}{MATRIX}", f"{PROMPT_ENCODER}matrix"),
        Rename(f"{PROMPTS}*", f"{PROMPT_ENCODER}*"),
        Rename(f"{PREFIX}vp_proj.*", f"{REGION}.branches.0.connector.*"),
        *_frame(REGION, "vp"),
    ]


def _frame(modality: str, theirs: str) -> list[Rule]:
    """Learned vectors `[1, 1, d]` around the tokens of a modality."""
    return [
        Change(
            f"{PREFIX}{side}_{theirs}",
            f"{modality}.frame.{side}",
            lambda vector: vector.reshape(-1),
            lambda vector: vector[None, None],
        )
        for side in ("start", "end")
    ]
