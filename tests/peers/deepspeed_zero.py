"""Twenty steps of the HF Trainer under DeepSpeed's ZeRO-2 and ZeRO-3, on two processes, beside the plain model in one.

    python -m tests.peers.deepspeed_zero [--processes 2] [--stage 2]

Losses and weights shall be those of the whole batch in one process, and so shall those of a run that goes on from the
tenth step's checkpoint. DeepSpeed is in no extra of omnimix (its first run compiles for minutes); where it is not
installed the script says that nothing was run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

WORDS = {
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": 0.0,
    "zero_allow_untested_optimizer": True,
    "zero_force_ds_cpu_optimizer": False,
}
"""What a user writes into `ds_config.json`; the optimizer is the Trainer's. Unsaid, gradients are clipped to 1."""
ZERO: dict[int, dict[str, Any]] = {
    2: {"stage": 2},
    3: {"stage": 3, "stage3_gather_16bit_weights_on_model_save": True},
}
STEPS, SAVED = 20, 10
RATE, EPSILON = 1e-3, 1e-4
"""Adam divides gradients that are nothing but rounding by their own size, unless this stands beside it."""
SAID = (
    ("How many?", "two"),
    ("What is the colour of the large thing?", "a red circle"),
    ("Where?", "on the left of the square"),
    ("What is it?", "a ring"),
)


def rows() -> list[Any]:
    """A picture, a question and an answer each; two of them are a step."""
    import numpy as np
    from PIL import Image

    from omnimix.types import Media, Sample, Turn

    pixels = np.random.default_rng(0).integers(0, 255, (len(SAID), 60, 80, 3), dtype=np.uint8)
    pictures = [Media.image(Image.fromarray(one)) for one in pixels]
    return [
        Sample((Turn("user", (picture, asked)), Turn("assistant", (said,))), asked)
        for picture, (asked, said) in zip(pictures, SAID, strict=True)
    ]


def fresh() -> tuple[Any, Any]:
    """The model that every run begins with; its encoder's batch norms would see another batch on each process."""
    import torch

    from omnimix.generate import folder

    model, processor = folder.read(folder.find("nano"), torch.device("cpu"))
    for encoder in model.image.branches[0].encoders:
        encoder.requires_grad_(False)
    return model.float().train(), processor


def expected() -> tuple[list[float], dict[str, Any]]:
    """Losses and weights of the steps in one process."""
    import torch

    model, processor = fresh()
    given = rows()
    learned = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(learned.values(), lr=RATE, eps=EPSILON, weight_decay=0.0)
    losses = []
    for step in range(STEPS):
        half = 2 * (step % 2)
        loss = model(**processor(given[half : half + 2])).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses, {name: p.detach() for name, p in learned.items()}


def trained(
    place: Path, model: Any, processor: Any, resume: bool
) -> tuple[list[float], dict[str, Any], Any]:
    """The same by the Trainer: losses, weights and the engine."""
    import deepspeed
    from torch.utils.data import SequentialSampler
    from transformers import Trainer, TrainingArguments

    class InOrder(Trainer):  # type: ignore[misc]
        """Takes the rows in their order."""

        def _get_train_sampler(self, dataset: Any = None) -> Any:
            return SequentialSampler(dataset or self.train_dataset)

    args = TrainingArguments(
        str(place / "out"),
        per_device_train_batch_size=2 // int(os.environ["WORLD_SIZE"]),
        max_steps=STEPS,
        max_grad_norm=0.0,
        optim="adamw_torch",
        learning_rate=RATE,
        adam_epsilon=EPSILON,
        lr_scheduler_type="constant",
        logging_steps=1,
        report_to=[],
        save_strategy="steps",
        save_steps=SAVED,
        remove_unused_columns=False,
        use_cpu=True,
        disable_tqdm=True,
        deepspeed=str(place / "ds_config.json"),
    )
    trainer = InOrder(model, args, data_collator=processor, train_dataset=rows())
    begin = str(place / "out" / f"checkpoint-{SAVED}") if resume else None
    trainer.train(resume_from_checkpoint=begin)
    assert trainer.deepspeed is trainer.model_wrapped and trainer.deepspeed.global_steps == STEPS
    learned = {name: p for name, p in model.named_parameters() if p.requires_grad}
    with deepspeed.zero.GatheredParameters(list(learned.values())):
        weights = {name: p.detach().clone() for name, p in learned.items()}
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    return losses, weights, trainer.deepspeed


def worker(place: Path, stage: int) -> None:
    """One process; on the first what it came to."""
    losses, weights = expected()
    # Behind arguments that ask for ZeRO-3 transformers cuts every model while it is built.
    for resume, begun in enumerate([fresh(), fresh()]):
        found, now, engine = trained(place, *begun, resume=bool(resume))
        assert type(engine).__name__ == "DeepSpeedEngine"
        assert engine.zero_optimization_stage() == stage
        if int(os.environ["RANK"]):
            continue
        assert len(found) == STEPS and now.keys() == weights.keys()
        lost = max(abs(a - b) for a, b in zip(found, losses, strict=True))
        apart = max(float((now[name] - value).abs().max()) for name, value in weights.items())
        print(
            f"ZeRO-{stage}, {os.environ['WORLD_SIZE']} processes, {'resumed' if resume else 'whole'}: losses from "
            f"{losses[0]:.4f} to {losses[-1]:.4f}, {lost:.1e} apart; {len(now)} tensors {apart:.1e} apart",
            flush=True,
        )
        assert lost < 1e-4 and apart < 1e-5


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--processes", type=int, default=2, choices=(1, 2))
    parser.add_argument("--stage", type=int, choices=sorted(ZERO), help="both unless told")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.worker is not None:
        worker(asked.worker, asked.stage)
        return 0
    if find_spec("deepspeed") is None:
        print("NOT RUN: deepspeed is not installed: pip install deepspeed ninja")
        return 0
    ended = 0
    for stage in [asked.stage] if asked.stage else sorted(ZERO):
        with tempfile.TemporaryDirectory() as place:
            words = {**WORDS, "zero_optimization": ZERO[stage]}
            (Path(place) / "ds_config.json").write_text(json.dumps(words))
            many = ["--nproc-per-node", str(asked.processes)]
            launch = ["torch.distributed.run", "--standalone", *many, "-m"]
            own = ["tests.peers.deepspeed_zero", "--worker", place, "--stage", str(stage)]
            ended |= subprocess.run([sys.executable, "-m", *launch, *own], check=False).returncode
    return ended


if __name__ == "__main__":
    sys.exit(main())
