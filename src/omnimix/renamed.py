"""Words that had another name once, so that a file which still holds one is told the new one.

`docs/words.md` says what every word means.
"""

from __future__ import annotations

RENAMED: dict[str, dict[str, str]] = {
    "Training": {
        "start": "initial_checkpoint",
        "quantization": "quantization",
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
}
"""For each class of settings the old words and what they are called now."""

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


def new_name(classes: tuple[type, ...], word: str) -> str | None:
    """A sentence that says how a word of a class of settings is called now; None for any other word.

    Args:
        classes: the class and those that it is made from, in order.
    """
    for cls in classes:
        for table, when in ((RENAMED, "now"), (ELSEWHERE, "here")):
            new = table.get(cls.__name__, {}).get(word)
            if new is not None:
                return f"`{word}` is called `{new}` {when}{HINTS.get(word, '')}"
    return None
