"""One step of the HF Trainer under DeepSpeed's ZeRO-2, on two processes, beside the same step of the plain model.

    python -m tests.peers.deepspeed_zero [--processes 2]

Loss and gradients shall be those of the whole batch in one process. DeepSpeed is in no extra of omnimix (its first
run compiles for minutes); where it is not installed the script says that nothing was run.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np

WORDS = {
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "zero_optimization": {"stage": 2},
    "gradient_clipping": 0.0,
    "zero_allow_untested_optimizer": True,
    "zero_force_ds_cpu_optimizer": False,
}
"""What a user writes into `ds_config.json`; the optimizer is the Trainer's. Unsaid, gradients are clipped to 1."""
RATE = 1.0
"""With it a step of plain SGD is the gradient itself."""


def worker(place: Path) -> None:
    """One process: the step, and on the first what it came to."""
    import torch
    from PIL import Image

    from omnimix.generate import folder
    from omnimix.types import Media, Sample, Turn

    # Behind ours, which cures a torchvision of another build.
    from transformers import Trainer, TrainingArguments  # isort: skip

    model, processor = folder.read(folder.find("nano"), torch.device("cpu"))
    for encoder in model.image.branches[0].encoders:
        encoder.requires_grad_(False)  # batch norms would see another batch on each process
    model = model.float().train()
    pixels = np.random.default_rng(0).integers(0, 255, (2, 60, 80, 3), dtype=np.uint8)
    said = (("How many?", "two"), ("What is the colour of the large thing?", "a red circle"))
    samples = [
        Sample(
            (
                Turn("user", (Media.image(Image.fromarray(one)), question)),
                Turn("assistant", (answer,)),
            ),
            question,
        )
        for one, (question, answer) in zip(pixels, said, strict=True)
    ]
    output = model(**processor(samples))
    output.loss.backward()
    learned = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    wanted = {name: p.detach() - RATE * p.grad for name, p in learned if p.grad is not None}
    norm = float(torch.stack([p.grad.norm() for _, p in learned if p.grad is not None]).norm())
    model.zero_grad(set_to_none=True)
    each = len(samples) // int(os.environ["WORLD_SIZE"])
    args = TrainingArguments(
        str(place / "out"),
        per_device_train_batch_size=each,
        max_steps=1,
        max_grad_norm=0.0,
        optim="sgd",
        learning_rate=RATE,
        lr_scheduler_type="constant",
        logging_steps=1,
        report_to=[],
        save_strategy="no",
        remove_unused_columns=False,
        use_cpu=True,
        deepspeed=str(place / "ds_config.json"),
    )
    trainer = Trainer(
        model,
        args,
        data_collator=processor,
        train_dataset=samples,
    )
    trainer.train()
    engine = trainer.deepspeed
    if not trainer.is_world_process_zero():
        return
    logged = trainer.state.log_history[0]
    largest = max(float(p.abs().max()) for p in wanted.values())
    now = dict(model.named_parameters())
    apart = max(float((now[name].detach() - value).abs().max()) for name, value in wanted.items())
    print(
        f"{type(engine).__name__}, stage {engine.zero_optimization_stage()}, {os.environ['WORLD_SIZE']} processes"
    )
    print(f"loss {logged['loss']:.6f}, ours {output.loss.item():.6f}")
    print(f"norm of gradients {logged['grad_norm']:.5f}, ours {norm:.5f}")
    print(f"{len(wanted)} tensors after the step {apart:.1e} apart, of at most {largest:.2f}")
    assert trainer.model_wrapped is engine and type(engine).__name__ == "DeepSpeedEngine"
    assert engine.zero_optimization_stage() == 2 and engine.global_steps == 1
    assert math.isclose(logged["loss"], output.loss.item(), rel_tol=1e-5)
    assert math.isclose(logged["grad_norm"], norm, rel_tol=1e-4)
    assert wanted and apart < 1e-5 * largest


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--processes", type=int, default=2, choices=(1, 2))
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.worker is not None:
        worker(asked.worker)
        return 0
    if find_spec("deepspeed") is None:
        print("NOT RUN: deepspeed is not installed: pip install deepspeed ninja")
        return 0
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "ds_config.json").write_text(json.dumps(WORDS))
        launch = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(asked.processes)]
        words = ["-m", "tests.peers.deepspeed_zero", "--worker", place]
        return subprocess.run([sys.executable, "-m", *launch, *words], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
