"""Words that had another name once, so that a file which still holds one is told the new one.

`docs/words.md` says what every word means.
"""

from __future__ import annotations

from collections.abc import Iterable

RENAMED: dict[str, dict[str, str]] = {
    "load": {"quantize": "quantization"},
    "Training": {
        "start": "initial_checkpoint",
        "quantize": "quantization",
        "workers": "num_workers",
        "out": "output_dir",
    },
    "Stage": {
        "learns": "trainable",
        "steps": "max_steps",
        "epochs": "num_train_epochs",
        "cut": "max_length",
        "batch": "batch_size",
        "accumulate": "gradient_accumulation_steps",
        "pack": "packing",
        "precision": "bf16",
        "save_every": "save_steps",
        "log_every": "logging_steps",
    },
    "OptimizerSpec": {
        "rate": "lr",
        "rates": "lr_scale",
        "decay": "weight_decay",
        "spares": "no_weight_decay",
        "clip": "max_grad_norm",
        "clip_parts": "clip_micro_batches",
    },
    "ScheduleSpec": {
        "shape": "lr_scheduler_type",
        "warmup": "warmup_steps",
        "share": "warmup_ratio",
        "final": "min_lr_ratio",
    },
    "Adapter": {
        "rank": "r",
        "alpha": "lora_alpha",
        "dropout": "lora_dropout",
        "targets": "target_modules",
    },
    "Recipe": {"context": "model_max_length"},
    "CausalLM": {"attention": "attn_implementation"},
    "FastTokenizer": {
        "bos": "bos_token",
        "eos": "eos_token",
        "pad": "pad_token",
        "added": "extra_special_tokens",
        "tidy": "clean_up_tokenization_spaces",
    },
    "SentencePieceTokenizer": {"added": "extra_special_tokens", "pad": "pad_token"},
    "SlowLlama": {
        "bos": "bos_token",
        "eos": "eos_token",
        "unk": "unk_token",
        "pad": "pad_token",
        "added": "added_tokens",
        "marks": "extra_special_tokens",
    },
    "AddedToken": {"text": "content"},
    "Template": {"stop": "stop_strings"},
    "Resize": {"filter": "interpolation"},
    "SmartResize": {"filter": "interpolation", "least": "min_pixels", "most": "max_pixels"},
    "ResizeCrop": {"filter": "interpolation", "shorter": "shortest_edge"},
    "AnyRes": {"filter": "interpolation"},
    "Tokenize": {"most": "max_length", "overlap": "stride", "multiple": "pad_to_multiple_of"},
    "LogMel": {
        "rate": "sampling_rate",
        "bins": "feature_size",
        "seconds": "chunk_length",
        "window": "n_fft",
        "hop": "hop_length",
    },
    "ClapMel": {
        "rate": "sampling_rate",
        "bins": "feature_size",
        "seconds": "max_length_s",
        "window": "fft_window_size",
        "hop": "hop_length",
        "lowest": "frequency_min",
        "highest": "frequency_max",
    },
    "ImageBindSound": {"rate": "sampling_rate", "bins": "num_mel_bins"},
    "VideoOpener": {"frames": "num_frames", "per_second": "fps"},
    "Clip": {"frames": "num_frames"},
    "TimmEncoder": {"size": "img_size"},
    "Blip2QFormer": {
        "vision": "vision_config",
        "qformer": "qformer_config",
        "queries": "num_query_tokens",
    },
    "XClip": {"vision": "vision_config", "width": "projection_dim"},
}
"""For each class of settings, and for calls that take any word, the old words and what they are called now."""

HINTS = {
    "precision": " (true or false)",
    "per_device_train_batch_size": (
        "; it counts the samples of a whole step, "
        "per_device_train_batch_size * gradient_accumulation_steps * processes"
    ),
}
"""What else there is to say of a word whose values changed."""

ELSEWHERE: dict[str, dict[str, str]] = {
    "Training": {
        "model_name_or_path": "initial_checkpoint",
        "dataloader_num_workers": "num_workers",
    },
    "Stage": {
        "freeze": "trainable",
        "frozen": "trainable",
        "per_device_train_batch_size": "batch_size",
        "group_by_length": "order",
    },
    "OptimizerSpec": {"learning_rate": "lr", "adam_epsilon": "eps"},
    "ScheduleSpec": {"min_lr_rate": "min_lr_ratio"},
}
"""Words of other trainers for what has a word here."""


VALUES = {"Sft": {"average": {"part": "micro_batch"}}}
"""Values that had another name once, by class of settings and word."""


def new_value(place: str, word: str, value: object) -> str | None:
    """A sentence that says how a value is called now; None for any other value."""
    new = VALUES.get(place, {}).get(word, {}).get(value) if isinstance(value, str) else None
    return None if new is None else f"`{word}: {value}` is called `{word}: {new}` now"


def new_name(places: Iterable[str], word: str) -> str | None:
    """A sentence that says how a word is called now; None for any other word.

    Args:
        places: names of the class of settings and of those that it is made from, in order.
    """
    for place in places:
        for table, when in ((RENAMED, "now"), (ELSEWHERE, "here")):
            new = table.get(place, {}).get(word)
            if new is not None:
                return f"`{word}` is called `{new}` {when}{HINTS.get(word, '')}"
    return None
