"""SAM's own files (`sam_vit_h_4b8939.pth` and its like): what model they hold, in the names of transformers.

Names as in transformers' conversion script of SAM; sizes are read off the tensors, since the files state none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from omnimix.checkpoints.files import tensors_of
from omnimix.errors import CheckpointError

OTHERS = {
    "image_encoder.patch_embed.seq.0.c.weight": (
        "MobileSAM, whose image encoder (TinyViT) is none of those that open here",
        "take a folder of EdgeTAM, which is as small (yonigozlan/EdgeTAM-hf)",
    ),
    "mask_decoder.hf_token.weight": (
        "SAM-HQ in its own layout",
        "take the folder syscv-community/sam-hq-vit-base, the same weights as transformers has them",
    ),
    "model.image_encoder.trunk.patch_embed.proj.weight": (
        "SAM 2 in its own layout",
        "take the folder facebook/sam2.1-hiera-tiny, the same weights as transformers has them",
    ),
}
"""A tensor that tells a relative of SAM: what it is, and the way out."""

NAMES = (
    (r"^image_encoder\.patch_embed\.proj\.", "vision_encoder.patch_embed.projection."),
    (r"^image_encoder\.blocks\.(\d+)\.norm", r"vision_encoder.layers.\1.layer_norm"),
    (r"^image_encoder\.blocks\.", "vision_encoder.layers."),
    (r"^image_encoder\.neck\.0\.", "vision_encoder.neck.conv1."),
    (r"^image_encoder\.neck\.1\.", "vision_encoder.neck.layer_norm1."),
    (r"^image_encoder\.neck\.2\.", "vision_encoder.neck.conv2."),
    (r"^image_encoder\.neck\.3\.", "vision_encoder.neck.layer_norm2."),
    (r"^image_encoder\.", "vision_encoder."),
    (
        r"^prompt_encoder\.pe_layer\.positional_encoding_gaussian_matrix$",
        "prompt_encoder.shared_embedding.positional_embedding",
    ),
    (r"^prompt_encoder\.point_embeddings\.", "prompt_encoder.point_embed."),
    (r"^prompt_encoder\.mask_downscaling\.0\.", "prompt_encoder.mask_embed.conv1."),
    (r"^prompt_encoder\.mask_downscaling\.1\.", "prompt_encoder.mask_embed.layer_norm1."),
    (r"^prompt_encoder\.mask_downscaling\.3\.", "prompt_encoder.mask_embed.conv2."),
    (r"^prompt_encoder\.mask_downscaling\.4\.", "prompt_encoder.mask_embed.layer_norm2."),
    (r"^prompt_encoder\.mask_downscaling\.6\.", "prompt_encoder.mask_embed.conv3."),
    (r"^(mask_decoder\.transformer\..*)\bnorm", r"\1layer_norm"),
    (r"^mask_decoder\.output_upscaling\.0\.", "mask_decoder.upscale_conv1."),
    (r"^mask_decoder\.output_upscaling\.1\.", "mask_decoder.upscale_layer_norm."),
    (r"^mask_decoder\.output_upscaling\.3\.", "mask_decoder.upscale_conv2."),
    (r"^(mask_decoder\.(?:output_hyper|iou_pred).*)\.layers\.0\.", r"\1.proj_in."),
    (r"^(mask_decoder\.(?:output_hyper|iou_pred).*)\.layers\.1\.", r"\1.layers.0."),
    (r"^(mask_decoder\.(?:output_hyper|iou_pred).*)\.layers\.2\.", r"\1.proj_out."),
)
"""The first that fits a name says the other one."""


def single(weights: str | Path) -> bool:
    """Whether weights are one file, there or not."""
    path = Path(weights)
    return path.suffix in (".pth", ".pt") or path.is_file()


def opened(path: Path) -> tuple[Any, dict[str, Tensor]]:
    """The configuration of a file's model and its tensors, as transformers' `SamModel` takes them.

    Raises:
        CheckpointError: it is not there, holds more than tensors, or holds another model.
    """
    tensors = tensors_of(path)
    for name, (what, way) in OTHERS.items():
        if name in tensors:
            raise CheckpointError(f"this is {what}", where=str(path), hint=way)
    try:
        config = _config(tensors)
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"this file holds no whole SAM (its tensor {error} is missing or of another form)",
            where=str(path),
            hint="take sam_vit_b_01ec64.pth, sam_vit_l_0b3195.pth or sam_vit_h_4b8939.pth, or a folder",
        ) from None
    named = {_name(name): tensor.float() for name, tensor in tensors.items()}
    place = "prompt_encoder.shared_embedding.positional_embedding"
    return config, {**named, "shared_image_embedding.positional_embedding": named[place]}


def _name(name: str) -> str:
    for pattern, other in NAMES:
        changed, count = re.subn(pattern, other, name)
        if count:
            return changed
    return name


def _config(tensors: Mapping[str, Tensor]) -> Any:
    """Raises `KeyError` for a tensor that is missing, and others for one of an unlikely form."""
    from transformers import SamConfig

    def sizes(name: str) -> list[int]:
        return list(tensors[name].shape)

    hidden, _, patch, _ = sizes("image_encoder.patch_embed.proj.weight")
    _, grid, _, _ = sizes("image_encoder.pos_embed")
    blocks = [
        name
        for name in tensors
        if re.fullmatch(r"image_encoder\.blocks\.\d+\.attn\.rel_pos_h", name)
    ]
    # Relative positions of a window of n patches are 2n - 1; a block whose window is the picture is a global one.
    windows = [
        (sizes(f"image_encoder.blocks.{i}.attn.rel_pos_h")[0] + 1) // 2 for i in range(len(blocks))
    ]
    per_head = sizes("image_encoder.blocks.0.attn.rel_pos_h")[1]
    width, _ = sizes("mask_decoder.iou_token.weight")[::-1]
    first = "mask_decoder.transformer.layers.0"
    vision = {
        "hidden_size": hidden,
        "output_channels": sizes("image_encoder.neck.0.weight")[0],
        "num_hidden_layers": len(windows),
        "num_attention_heads": hidden // per_head,
        "image_size": grid * patch,
        "patch_size": patch,
        "window_size": next((n for n in windows if n != grid), grid),
        "global_attn_indexes": [i for i, n in enumerate(windows) if n == grid],
        "num_pos_feats": sizes("prompt_encoder.pe_layer.positional_encoding_gaussian_matrix")[1],
        "mlp_dim": sizes("image_encoder.blocks.0.mlp.lin1.weight")[0],
    }
    prompts = {
        "hidden_size": width,
        "image_size": grid * patch,
        "patch_size": patch,
        "mask_input_channels": sizes("prompt_encoder.mask_downscaling.3.weight")[0],
    }
    decoder = {
        "hidden_size": width,
        "mlp_dim": sizes(f"{first}.mlp.lin1.weight")[0],
        "num_attention_heads": 8,  # of every SAM; no tensor tells it
        "attention_downsample_rate": width
        // sizes(f"{first}.cross_attn_token_to_image.q_proj.weight")[0],
        "num_multimask_outputs": sizes("mask_decoder.mask_tokens.weight")[0] - 1,
        "iou_head_hidden_dim": sizes("mask_decoder.iou_prediction_head.layers.0.weight")[0],
    }
    return SamConfig(
        vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder
    )
