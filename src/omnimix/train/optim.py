"""Who learns, with which rate, and how the rate moves."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from omnimix.compose.adapters import whole
from omnimix.errors import TrainError
from omnimix.train import optimizers
from omnimix.train.settings import OptimizerSpec, ScheduleSpec

PARTS = {
    "adapters": ("*.lora_*",),
    "connectors": ("*.branches.*.connector.*", "*.frame.*"),
    "encoders": ("*.branches.*.encoders.*", "*.branches.*.finishes.*"),
}
"""Words that name the same parts in every recipe, beside patterns on names."""


def fits(name: str, pattern: str) -> bool:
    """Whether a parameter's name is meant: by a word of `PARTS`, by the part it lies in, or by its name."""
    patterns = PARTS.get(pattern, (pattern, f"{pattern}.*"))
    return any(fnmatch.fnmatchcase(name, each) for each in patterns)


def set_trainable(model: nn.Module, patterns: Sequence[str]) -> int:
    """Freeze and unfreeze by name; the first pattern that matches wins, `-pattern` freezes.

    Returns:
        Number of learned parameters.

    Raises:
        TrainError: a pattern that matches nothing, quantized weights, or nothing left to learn.
    """
    names, learned = learning(model, patterns), 0
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in names)
        learned += parameter.numel() if name in names else 0
    return learned


def learning(model: nn.Module, patterns: Sequence[str]) -> set[str]:
    """Names of the parameters that learn under the patterns, as `set_trainable` reads them."""
    parameters = dict(model.named_parameters())
    for pattern in patterns:
        if not any(fits(name, pattern.removeprefix("-")) for name in parameters):
            raise _unmatched(model, pattern, "trainable")
    names: set[str] = set()
    for name, parameter in parameters.items():
        match = next((p for p in patterns if fits(name, p.removeprefix("-"))), None)
        if match is None or match.startswith("-"):
            continue
        if not parameter.is_floating_point():
            raise TrainError(
                f"{name} is quantized and cannot learn (it is meant by {match!r})",
                where="trainable",
                hint="let adapters and connectors learn, or leave quantization out",
            )
        names.add(name)
    if not names:
        raise TrainError(
            "nothing is left to learn", where="trainable", hint="name a part that learns"
        )
    return names


def part_of(name: str) -> str:
    """The part that a parameter belongs to, for people: `adapters`, `image connector`, `language` ..."""
    if fits(name, "adapters"):
        return "adapters"
    top = name.split(".")[0]
    kind = next((word for word in ("connectors", "encoders") if fits(name, word)), None)
    return f"{top} {kind[:-1]}" if kind else top


def norms(model: nn.Module) -> dict[str, Tensor]:
    """The norm of the gradient of each part."""
    found: dict[str, list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            found.setdefault(part_of(name), []).append(parameter.grad)
    return {part: total_norm(grads) for part, grads in found.items()}


def total_norm(gradients: Sequence[Tensor]) -> Tensor:
    """The norm of all gradients together, of which every process may hold a part."""
    norms = [whole(nn.utils.get_total_norm(some)) for some in _by_mesh(gradients)]
    return norms[0] if len(norms) == 1 else nn.utils.get_total_norm(norms)


def clip(parameters: Sequence[nn.Parameter], most: float) -> Tensor:
    """Make the gradients no longer than `most`, all together; returns how long they were."""
    used = [p for p in parameters if p.grad is not None]
    norm = total_norm([p.grad for p in used if p.grad is not None])
    for some in _by_mesh(used):
        nn.utils.clip_grads_with_norm_(some, most, norm)
    return norm


def _by_mesh(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """Those apart that are cut over different processes: torch takes them together for one kind only."""
    found: dict[Any, list[Tensor]] = {}
    for one in tensors:
        found.setdefault(getattr(one, "device_mesh", None), []).append(one)
    return list(found.values()) or [[]]


def sizes(model: nn.Module) -> dict[str, int]:
    """How many numbers of each part learn."""
    found: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            found[part_of(name)] = found.get(part_of(name), 0) + parameter.numel()
    return found


def check_patterns(model: nn.Module, spec: OptimizerSpec) -> None:
    """Refuse names that are no parameter's, of what learns or not.

    Raises:
        TrainError: a pattern of `lr_scale` or `no_weight_decay` that matches nothing.
    """
    names = [name for name, _ in model.named_parameters()]
    spared = spec.no_weight_decay if isinstance(spec.no_weight_decay, tuple) else ()
    for word, patterns in (("lr_scale", spec.lr_scale), ("no_weight_decay", spared)):
        for pattern in patterns:
            if not any(fits(name, pattern) for name in names):
                raise _unmatched(model, pattern, f"optimizer.{word}")


def _unmatched(model: nn.Module, pattern: str, where: str) -> TrainError:
    tops = ", ".join(name for name, _ in model.named_children())
    hint = f"names begin with {tops}; `omnimix show` prints the tree"
    if pattern.removeprefix("-") == "adapters":
        hint = "give the recipe some: adapters: [{part: language, r: 16}]"
    return TrainError(f"the pattern {pattern!r} matches no parameter", where=where, hint=hint)


def groups(model: nn.Module, spec: OptimizerSpec) -> list[dict[str, Any]]:
    """Parameter groups: matrices decay, vectors do not, embeddings as `no_weight_decay` says; rates by name.

    Raises:
        TrainError: a pattern that matches nothing.
    """
    check_patterns(model, spec)
    table: dict[tuple[float, float], list[nn.Parameter]] = {}
    embeddings = {
        id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()
    }
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        factor = next((f for p, f in spec.lr_scale.items() if fits(name, p)), 1.0)
        if isinstance(spec.no_weight_decay, tuple):
            plain = any(fits(name, pattern) for pattern in spec.no_weight_decay)
        else:
            vector = parameter.ndim <= 1 or name.endswith(".bias")
            plain = spec.no_weight_decay != "nothing" and vector
        if spec.no_weight_decay == "embeddings":
            plain = plain or id(parameter) in embeddings or "pos_embed" in name
        table.setdefault((0.0 if plain else spec.weight_decay, factor), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": decay, "factor": factor, "lr": spec.lr * factor}
        for (decay, factor), parameters in table.items()
    ]


def optimizer(model: nn.Module, spec: OptimizerSpec) -> torch.optim.Optimizer:
    """The optimizer over what learns.

    Raises:
        OmnimixError: one that cannot run here.
    """
    over = [p for p in model.parameters() if isinstance(p, DTensor)]
    alike = all(p.to_local().shape == p.shape for p in over)
    if over and not alike:
        check_cut(spec)
    words = {"lr": spec.lr, "betas": spec.betas, "eps": spec.eps}
    device = next(model.parameters()).device

    def made(groups: optimizers.Groups) -> torch.optim.Optimizer:
        return optimizers.made(spec.name, groups, words, optimizers.tables(model), device)

    own = groups(model, spec)
    dtensors = spec.name in ("adamw", "muon")
    return made(own) if dtensors or not over else optimizers.InEach(own, made)


def check_cut(spec: OptimizerSpec) -> None:
    """Refuse an optimizer that cannot work on weights of which a process holds a part alone.

    Raises:
        TrainError: any but AdamW.
    """
    if spec.name != "adamw":
        raise TrainError(
            f"{spec.name} does not work on weights that lie over several processes",
            where="optimizer.name",
            hint="take adamw, or shard: none",
        )


def rate(step: int, steps: int, peak: float, schedule: ScheduleSpec) -> float:
    """The learning rate of a step (from 0): warm-up, hold, fall."""
    if schedule.exact:
        return _exact(step, steps, peak, schedule)
    warmup = (
        schedule.warmup_steps
        if schedule.warmup_ratio is None
        else int(steps * schedule.warmup_ratio)
    )
    if schedule.zero_first:
        return peak * _from_zero(step, steps, warmup, schedule.lr_scheduler_type)
    if step < warmup:
        return peak * (step + 1) / warmup
    start = max(warmup, int(steps * schedule.hold))
    if step < start:
        return peak
    progress = (step - start) / max(1, steps - start)
    low = schedule.min_lr_ratio * peak
    return low + (peak - low) * _fallen(min(progress, 1.0), schedule.lr_scheduler_type)


def _exact(step: float, steps: int, peak: float, schedule: ScheduleSpec) -> float:
    """In fractions of an epoch: up to the peak in a share of the steps, then down to `min_lr_ratio`."""
    warmup = (
        schedule.warmup_steps if schedule.warmup_ratio is None else steps * schedule.warmup_ratio
    )
    if step < warmup:
        return peak * step / warmup
    progress = min((step - warmup) / max(1e-9, steps - warmup), 1.0)
    low = schedule.min_lr_ratio * peak
    return low + (peak - low) * _fallen(progress, schedule.lr_scheduler_type)


def _fallen(progress: float, shape: str) -> float:
    """What is left of the rate when so much of the fall is behind."""
    if shape == "constant":
        return 1.0
    if shape == "linear":
        return max(0.0, 1.0 - progress)
    return 0.5 * (1 + math.cos(math.pi * progress))


def _from_zero(step: int, steps: int, warmup: int, shape: str) -> float:
    """The factor of arXiv 2402.07865's trainer: nothing at step 0, and behind the last step the cosine rises again."""
    if step == 0:
        return 0.0
    if step < warmup:
        return step / warmup
    return max(0.0, _fallen((step - warmup) / max(1, steps - warmup), shape))
