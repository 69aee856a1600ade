"""A small example (or several) of every registered row, without its `kind`."""

from __future__ import annotations

from typing import Any

_HALF = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
_OTHER = {"from_mean": [0.4, 0.4, 0.4], "from_std": [0.2, 0.3, 0.2]}
_VIT = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
_TOWER = {**_VIT, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
_TIMM = {"embed_dim": 24, "depth": 2, "num_heads": 2}
_LLAMA = {"model_type": "llama", **_VIT, "num_attention_heads": 2, "vocab_size": 32}
_WHISPER = {
    **{"d_model": 16, "encoder_layers": 1, "decoder_layers": 2, "num_mel_bins": 8},
    **{"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 24},
    **{"decoder_ffn_dim": 24, "vocab_size": 20, "max_source_positions": 10},
    **{"decoder_start_token_id": 3, "pad_token_id": 2, "eos_token_id": 2, "bos_token_id": 2},
    **{"suppress_tokens": None, "begin_suppress_tokens": None, "max_target_positions": 8},
}
_CLAP = {
    **{"spec_size": 64, "window_size": 2, "patch_size": 4, "patch_stride": [4, 4]},
    **{"num_mel_bins": 16, "hidden_size": 32, "patch_embeds_hidden_size": 8, "depths": [1, 1, 1]},
    **{"num_attention_heads": [1, 1, 2], "projection_dim": 12},
}
_XCLIP = {
    **{**_TOWER, "num_frames": 3, "mit_hidden_size": 12, "mit_intermediate_size": 24},
    **{"mit_num_hidden_layers": 1, "mit_num_attention_heads": 2},
}
_BERT = {"model_type": "bert", **_VIT, "num_attention_heads": 2, "vocab_size": 40}
_BIND = {
    **{"width": 12, "size": 28, "bins": 36, "frames": 46, "vocabulary": 40, "context": 16},
    **{"vision": {"width": 16, "blocks": 2, "heads": 2}},
    **{
        "audio": {"width": 8, "blocks": 1, "heads": 2},
        "text": {"width": 8, "blocks": 1, "heads": 2},
    },
}
_CONVNEXT = {"depths": [1, 1, 1, 1], "dims": [4, 8, 12, 16]}

EXAMPLES: dict[str, dict[str, list[dict[str, Any]]]] = {
    "steps": {
        "resize": [{"size": 32}, {"size": [40, 24], "interpolation": "bilinear"}],
        "smart_resize": [{}, {"factor": 8, "min_pixels": 64, "max_pixels": 4096}],
        "pad": [{}, {"fill": [1, 2, 3]}],
        "letterbox": [{"size": 32}],
        "resize_crop": [{"size": 32}, {"size": 32, "shortest_edge": 40, "rounding": "floor"}],
        "crop": [{"size": 16}, {"size": [20, 90]}],
        "anyres": [{"size": 16}, {"size": 16, "grids": [[1, 1], [4, 1]]}],
        "normalize": [_HALF],
        "renormalize": [{**_HALF, **_OTHER}],
        "quadrants": [{"size": 32}, {"size": 16, "per_side": 4}],
        "tensor_resize": [{"size": 24}, {"size": 80, "mode": "nearest", "half": True}],
        "clip": [{}, {"num_frames": 1}],
        "log_mel": [{}, {"feature_size": 16, "chunk_length": 2}],
        "clap_mel": [{}, {"fusion": False, "max_length_s": 1}],
        "imagebind_sound": [{}, {"clips": 2, "num_mel_bins": 32, "frames": 90}],
        "tokenize": [
            {"path": "tokenizer.json"},
            {"path": "vocab.txt", "chunks": 3, "max_length": 16},
        ],
    },
    "encoders": {
        "timm": [
            {"model": "vit_tiny_patch16_224", "img_size": 32, "args": _TIMM},
            {
                "model": "vit_tiny_patch16_224",
                "img_size": 48,
                "layer": -2,
                "norm": False,
                "args": _TIMM,
            },
            {"model": "vit_tiny_patch16_224", "img_size": 32, "stem": "conv", "args": _TIMM},
            {"model": "vit_tiny_patch16_224", "img_size": 32, "stem": "residual", "args": _TIMM},
            {"model": "vit_small_patch14_reg4_dinov2", "img_size": 28, "args": _TIMM},
            {"model": "eva02_tiny_patch14_224", "img_size": 28, "args": {**_TIMM, "img_size": 28}},
            {
                "model": "convnext_atto",
                "img_size": 64,
                "args": {**_CONVNEXT, "head_norm_first": True},
            },
        ],
        "transformers": [
            {"config": {"model_type": "clip_vision_model", **_TOWER}},
            {"config": {"model_type": "clip_vision_model", **_TOWER}, "layer": -2},
            {"config": {"model_type": "clip_vision_model", **_TOWER}, "pooled": True},
            {"config": {"model_type": "siglip_vision_model", "vision_use_head": False, **_TOWER}},
        ],
        "blip2_qformer": [
            {
                "num_query_tokens": 3,
                "vision_config": _TOWER,
                "qformer_config": {**_VIT, "num_attention_heads": 2, "encoder_hidden_size": 16},
            }
        ],
        "whisper": [{"config": _WHISPER}, {"config": _WHISPER, "reads": "frames"}],
        "clap": [{"config": _CLAP}, {"config": {**_CLAP, "enable_fusion": True}}],
        "xclip": [{"vision_config": _XCLIP, "projection_dim": 12}],
        "text": [{"config": _BERT}],
        "imagebind": [_BIND, {**_BIND, "text": None}, {**_BIND, "vision": None}],
        "points_boxes": [{"width": 16}, {"width": 32, "slots": 4}],
        "region_pool": [{}, {"source": "image", "waves": 3}],
    },
    "finishes": {
        "drop_prefix": [{}],
        "pixel_shuffle": [{}, {"factor": 4}],
        "repeat_cells": [{}, {"factor": 3}],
        "prepend_mean": [{}],
        "norm": [{}, {"eps": 1e-6}],
    },
    "connectors": {
        "linear": [{}],
        "mlp": [{}, {"depth": 1}, {"depth": 3}],
        "fused_mlp": [{}],
        "linear_norm": [{}, {"eps": 1e-6}],
        "token_mlp": [{"tokens": 1}, {"tokens": 3, "depth": 1}],
        "perceiver": [{"latents": 3, "depth": 2, "heads": 2, "dim_head": 4}],
    },
    "arranges": {"row_bands": [{}], "flat": [{}]},
    "codecs": {
        "fractions": [{}, {"decimals": 3, "ceiling": 0.99}],
        **{row: [{}] for row in ("llava", "ferret", "qwen2_vl", "qwen2_5_vl", "qwen3_vl")},
        **{row: [{}] for row in ("internvl", "molmo", "kosmos2", "paligemma", "florence2")},
        "sphinx": [{}, {"decimals": 2}],
        "sphinx_v": [{}, {"frame": "picture"}],
    },
    "openers": {
        "image": [{}, {"max_side": 100, "alpha": "white"}],
        "region": [{}, {"free": "box", "decimals": 3}],
        "audio": [{}, {"max_seconds": 3.0}],
        "video": [{}, {"num_frames": 4, "sampling": "window", "end": 9}],
        "document": [{}, {"max_pages": 2}],
        "several": [{"kinds": {"image": {"opens": "image", "steps": [{"kind": "pad"}]}}}],
    },
    "languages": {
        "causal_lm": [
            {"config": _LLAMA},
            {"config": _LLAMA, "attn_implementation": "eager"},
            {"config": _LLAMA, "head": {"bias": True, "width": 30}},
        ]
    },
    "tokenizers": {
        "fast": [
            {"path": "tokenizer.json"},
            {"path": "t.json", "bos_token": "<s>", "pad_token": "<pad>"},
        ],
        "sentencepiece": [
            {"path": "tokenizer.model", "extra_special_tokens": ["<PAD>"], "pad_token": "<PAD>"}
        ],
        "slow_llama": [
            {"path": "t.model", "added_tokens": [{"content": "<e>", "id": 9, "rstrip": True}]}
        ],
    },
    "objectives": {
        "glance": [{}, {"weight": 0.5, "text": True}],
        "sft": [{}, {"average": "micro_batch"}],
        "dpo": [{}, {"beta": 0.3, "reference": "adapters_off", "length_normalized": True}],
        "ipo": [{}, {"beta": 0.3}],
    },
    "datasets": {
        "scenes": [{}, {"seed": 3, "split": "heldout", "tasks": ["count"]}],
        "rows": [
            {"path": "a.jsonl"},
            {"path": "a", "format": "alpaca", "media": ["a", "b"]},
            {"path": "a.csv", "format": {"kind": "pairs", "text": "said"}, "media": {"coco": "c"}},
        ],
        "jsonl": [{"path": "a.jsonl"}, {"path": "a.jsonl", "images": "pictures"}],
        "llava": [{"path": "a.json"}, {"path": "a.json", "images": "p", "marks": "loose"}],
        "sphinx": [{"path": "a.yaml"}],
        "mdvp": [{"path": "a.yaml"}, {"path": "a.yaml", "noise": True, "seed": 3}],
        "tasks": [
            {"path": "a.json", "task": "rec"},
            {"path": "a.json", "task": "det", "boxes": "xywh"},
        ],
        "multi_token": [{"path": "a.jsonl"}, {"path": "rows", "modalities": ["image", "signal"]}],
        "xgen_sft": [{"data_path": {"a.json": 3}, "image_folders": {"coco": "pictures"}}],
    },
    "formats": {
        "pairs": [{}, {"image": "photo", "text": "said"}],
        "alpaca": [{}],
        "messages": [{}, {"marks": "loose"}],
        "grounded": [{}],
        "llava": [{}, {"marks": "loose"}],
        "sharegpt": [{}],
        "turns": [{}],
        "preference": [{}],
        "multi_token": [{}, {"modalities": ["image", "signal"], "surplus": "ignore"}],
    },
    "segmenters": {
        **{row: [{}] for row in ("sam", "sam_hq", "sam2", "sam2_video")},
        **{row: [{}] for row in ("edgetam", "edgetam_video", "sam3_tracker", "sam3_video")},
    },
    "checkpoints": {"prismatic": [{}], "xgen_mm": [{}], "sphinx": [{}], "multi_token": [{}]},
    "readings": {"certificate": [{}], "golden": [{}]},
    "benchmarks": {"scenes": [{"seed": 7}]},
    "wires": {"chat": [{}], "multi_token": [{}]},
    "measures": {
        row: [{}]
        for row in (
            *("exact", "relaxed", "yes_no", "vqa", "vizwiz", "anls", "iou"),
            *("referring", "cider", "judged"),
            *(
                "region_labels",
                "region_texts",
                "textvqa",
                "contains",
                "referring25",
                "circular",
                "pope",
            ),
            *(
                "mme",
                "number",
                "mathvista",
                "coco_captions",
                "sentence_similarity",
                "region_captions",
            ),
        )
    },
}
"""By table and row."""

INPUT_SIDE = {"timm": 224, "transformers": 32, "blip2_qformer": 32}
"""Side of the pictures that an encoder of pictures takes, where its words do not say it."""

INPUT_SHAPES: dict[str, list[tuple[int, ...]]] = {
    "whisper": [(8, 20)],
    "clap": [(4, 250, 16)],
    "xclip": [(3, 3, 32, 32)],
    "imagebind": [(3, 28, 28), (2, 1, 36, 46)],
}
"""Shapes of the tiles of encoders that see other things; several where an encoder takes several kinds."""

INPUT_IDS = {"text": 40, "imagebind": 40}
"""Sizes of the vocabularies of encoders that read."""

NO_WORDS = frozenset({"benchmarks", "checkpoints", "measures", "readings", "segmenters", "wires"})
"""Tables whose rows are no specs: they are made with plain arguments."""
