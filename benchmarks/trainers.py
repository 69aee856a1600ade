"""Sides of the training benchmark: each takes the same rows for some steps and says how long every step took."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks import llava
from benchmarks.llava import LORA, TARGETS, Row, Size
from omnimix.parallel.layout import ALONE, ModelLayout
from omnimix.train import optim
from omnimix.train.settings import Stage
from omnimix.train.step import optimizer_step

RATE = 1e-4


@dataclass
class Taken:
    """What a side took.

    Attributes:
        seconds: of each step, from the end of the one before to its own end.
        waited: of those, preparing batches, where the side tells it.
        losses: of each step.
        memory: bytes that the device held at most, weights, gradients and moments included.
        learned: bytes of what learns, in this process.
    """

    seconds: list[float] = field(default_factory=list)
    waited: float = 0.0
    losses: list[float] = field(default_factory=list)
    memory: int = 0
    learned: int = 0


@dataclass(frozen=True)
class Work:
    """Rows, what learns (`full`, `lora` or `connector`), the precision and the device; which of how many processes."""

    size: Size
    rows: list[Row]
    learns: str
    bf16: bool
    device: torch.device
    rank: int = 0
    ranks: int = 1

    @property
    def each(self) -> int:
        """Rows of a step that a process takes."""
        return self.size.batch // self.ranks

    def mine(self, step: int) -> list[Row]:
        """Of the rows of a step those of this process, as accelerate shares them out."""
        return self.part(step)[self.rank * self.each : (self.rank + 1) * self.each]

    def part(self, step: int) -> list[Row]:
        """The rows of a step."""
        many = self.size.batch
        return [self.rows[i % len(self.rows)] for i in range(step * many, (step + 1) * many)]


def learning(model: Any) -> int:
    """Bytes of the parameters that learn, in this process."""
    learned = [p for p in model.parameters() if p.requires_grad]
    return sum(getattr(p, "_local_tensor", p).nbytes for p in learned)


Side = Callable[[Work, int], Taken]


def settle(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def begun(model: Any, device: torch.device) -> int:
    """Forget what was held before; returns the bytes on the device that are not this model's."""
    gc.collect()
    if device.type != "cuda":
        return 0
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    own = {t.data_ptr(): t.nbytes for t in (*model.parameters(), *model.buffers())}
    return torch.cuda.memory_allocated() - sum(own.values())


def held(others: int, device: torch.device) -> int:
    """The most that the device held since, without others' bytes."""
    return torch.cuda.max_memory_allocated() - others if device.type == "cuda" else 0


class Ours:
    """Our model under our step, packed or padded, and with the tower's features at hand where it is `warm`.

    Args:
        layout: how the model lies over several processes; it has been placed so.
    """

    def __init__(
        self, model: Any, pack: bool, warm: bool = False, layout: ModelLayout = ALONE
    ) -> None:
        self.model, self.pack, self.warm, self.layout = model, pack, warm, layout

    def __call__(self, work: Work, steps: int) -> Taken:
        others = begun(self.model, work.device)
        model = self.model.train()
        trainable = {
            "full": ("-encoders", "*"),
            "lora": ("adapters",),
            "connector": ("connectors",),
        }[work.learns]
        words = {"lr": RATE, "betas": (0.9, 0.999), "weight_decay": 0.0, "max_grad_norm": 1.0}
        stage = Stage(
            trainable=trainable,
            mixture=({"data": {"kind": "jsonl", "path": "none.jsonl"}},),
            optimizer=words,
            schedule={"lr_scheduler_type": "constant", "warmup_steps": 0},
            max_steps=steps,
            batch_size=work.size.batch,
            packing=self.pack,
        )
        optim.set_trainable(model, stage.trainable)
        optimizer = optim.optimizer(model, stage.optimizer)

        def autocast() -> Any:
            on = work.bf16
            return torch.autocast(work.device.type, torch.bfloat16) if on else nullcontext()

        taken = Taken(learned=learning(model))
        known = llava.features(model, work.rows) if self.warm else None
        settle(work.device)
        last = time.perf_counter()
        for step in range(steps):
            batch = llava.our_batch(work.mine(step), model.recipe, self.pack, known)
            taken.waited += time.perf_counter() - last
            done = optimizer_step(
                model, optimizer, stage, step, steps, [batch], autocast, layout=self.layout
            )
            settle(work.device)
            now = time.perf_counter()
            taken.seconds.append(now - last)
            taken.losses.append(float(done.loss))
            last = now
        taken.memory = held(others, work.device)
        return taken


class Peer:
    """transformers' `Trainer`, or TRL's `SFTTrainer`, around the LLaVA class.

    Args:
        kind: `trainer`; `trl`, which recomputes activations by default; `trl_keeps`, which is told not to.
    """

    def __init__(self, model: Any, kind: str, out: Path) -> None:
        self.model, self.kind, self.out = model, kind, out

    def __call__(self, work: Work, steps: int) -> Taken:
        others = begun(self.model, work.device)
        model = _learning(self.model, work.learns)
        taken = Taken(learned=learning(model))
        trainer = self._trainer(model, work, steps, taken)
        trainer.train()
        taken.memory = held(others, work.device)
        taken.losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
        trainer.accelerator.free_memory()
        del trainer
        # The adapters come off again, and recomputing is over.
        whole = model.unload() if work.learns == "lora" else model
        whole.gradient_checkpointing_disable()
        whole.zero_grad(set_to_none=True)
        return taken

    def _trainer(self, model: Any, work: Work, steps: int, taken: Taken) -> Any:
        from datasets import Dataset
        from torch.utils.data import SequentialSampler
        from transformers import Trainer, TrainingArguments
        from trl import SFTConfig, SFTTrainer

        words: dict[str, Any] = {
            "output_dir": str(self.out),
            "per_device_train_batch_size": work.each,
            "max_steps": steps,
            "learning_rate": RATE,
            "lr_scheduler_type": "constant",
            "logging_steps": 1,
            "report_to": [],
            "save_strategy": "no",
            "disable_tqdm": True,
            "use_cpu": work.device.type == "cpu",
            "bf16": work.bf16,
            "remove_unused_columns": False,
        }
        base: Any = Trainer
        more: dict[str, Any] = {}
        if self.kind == "trainer":
            args = TrainingArguments(**words)
        else:
            base = SFTTrainer
            if self.kind == "trl_keeps":
                words["gradient_checkpointing"] = False
            skip = {"skip_prepare_dataset": True}
            args = SFTConfig(**words, max_length=None, dataset_kwargs=skip)
            more["processing_class"] = _tokenizer()

        class InOrder(base):  # type: ignore[misc]
            """Takes the rows in their order, as ours does."""

            def _get_train_sampler(self, dataset: Any = None) -> Any:
                return SequentialSampler(dataset or self.train_dataset)

        numbers = list(range(steps * work.size.batch))
        return InOrder(
            model=model,
            args=args,
            train_dataset=Dataset.from_dict({"row": numbers}),
            data_collator=lambda many: llava.peer_batch(
                [work.rows[one["row"] % len(work.rows)] for one in many]
            ),
            callbacks=[_clock(taken, work.device)],
            **more,
        )


def _learning(model: Any, learns: str) -> Any:
    """The model with the parts that learn, as `Ours` has them."""
    model.requires_grad_(learns == "full")
    model.model.vision_tower.requires_grad_(False)
    if learns == "connector":
        model.model.multi_modal_projector.requires_grad_(True)
    if learns != "lora":
        return model
    from peft import LoraConfig, get_peft_model

    targets = rf".*language_model.*\.({'|'.join(TARGETS)})"
    return get_peft_model(model, LoraConfig(**LORA, target_modules=targets))


def _clock(taken: Taken, device: torch.device) -> Any:
    from transformers import TrainerCallback

    class Clock(TrainerCallback):  # type: ignore[misc]
        """From the end of a step to the end of the next, as ours counts; the first from its beginning."""

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            if not taken.seconds:
                settle(device)
                self.last = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            settle(device)
            now = time.perf_counter()
            taken.seconds.append(now - self.last)
            self.last = now

    return Clock()


def _tokenizer() -> Any:
    """TRL asks for one; nothing is tokenized."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3}
    made = Tokenizer(WordLevel(words, unk_token="<unk>"))
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="</s>", bos_token="<s>"
    )


def useful_tokens(work: Work, steps: Sequence[int]) -> int:
    """Tokens without padding in these steps."""
    return sum(len(row.ids) for step in steps for row in work.part(step))
