"""The optimizers behind one word: torch's, and those of bitsandbytes that keep their moments in 8 bits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection
from typing import Any, Literal

import torch
from torch import Tensor, nn

from omnimix.errors import TrainError

Name = Literal["adamw", "adamw_8bit", "paged_adamw_8bit", "adafactor", "muon"]
Groups = list[dict[str, Any]]

FUSED = ("cuda", "cpu")
"""Devices with an AdamW in one kernel."""


def made(
    name: Name,
    groups: Groups,
    words: dict[str, Any],
    tables: Collection[int],
    device: torch.device,
) -> torch.optim.Optimizer:
    """An optimizer; its state is of the parameters of the groups alone.

    Args:
        groups: as torch takes them, each with its `weight_decay`.
        words: `lr`, `betas` and `eps`.
        tables: `id` of embeddings and output heads, which are no matrices to Muon.
        device: that the parameters lie on.

    Raises:
        TrainError: bitsandbytes or a GPU is missing.
    """
    if name == "adamw":
        return torch.optim.AdamW(groups, **words, fused=device.type in FUSED)
    if name == "adafactor":
        return torch.optim.Adafactor(groups, lr=words["lr"])
    if name == "muon":
        return Muon(_parted(groups, tables), words, device.type in FUSED)
    if name == "paged_adamw_8bit" and device.type != "cuda":
        raise TrainError(
            f"{name} pages a GPU's memory, and this device is {device.type}",
            where="optimizer.name",
            hint="take adamw_8bit, which is the same otherwise",
        )
    return _in_8_bits(name)(groups, **words)


def _in_8_bits(name: str) -> Callable[..., torch.optim.Optimizer]:
    try:
        import bitsandbytes
    except ImportError:
        raise TrainError(
            f"{name} needs bitsandbytes",
            where="optimizer.name",
            hint="install it with pip install 'omnimix[quantize]'",
        ) from None
    kinds: dict[str, Callable[..., torch.optim.Optimizer]] = {
        "adamw_8bit": bitsandbytes.optim.AdamW8bit,
        "paged_adamw_8bit": bitsandbytes.optim.PagedAdamW8bit,
    }
    return kinds[name]


def _parted(groups: Groups, tables: Collection[int]) -> Groups:
    """Each group as one of matrices and one of all else."""
    done: Groups = []
    for group in groups:
        for muon in (True, False):
            own = [p for p in group["params"] if (p.ndim == 2 and id(p) not in tables) == muon]
            done += [{**group, "params": own, "muon": muon}] if own else []
    return done


class Muon(torch.optim.Optimizer):
    """torch's Muon for matrices and AdamW for all else, as one optimizer with one state.

    A matrix moves by as much as AdamW would move it (`match_rms_adamw`), so that `lr` and `weight_decay` are of
    one size for both.
    """

    def __init__(self, groups: Groups, words: dict[str, Any], fused: bool) -> None:
        super().__init__(groups, {"lr": words["lr"]})
        plain = [group for group in self.param_groups if not group["muon"]]
        matrices = [group for group in self.param_groups if group["muon"]]
        # They put their defaults into these very groups, which hold what is saved.
        self.parts: dict[bool, torch.optim.Optimizer] = {}
        if matrices:
            self.parts[True] = torch.optim.Muon(
                matrices, lr=words["lr"], adjust_lr_fn="match_rms_adamw"
            )
        if plain:
            self.parts[False] = torch.optim.AdamW(plain, **words, fused=fused)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One move of all."""
        for muon, part in self.parts.items():
            # What was loaded are new groups and a new state.
            part.param_groups = [group for group in self.param_groups if group["muon"] == muon]
            part.state = self.state
            part.step()


class InEach(torch.optim.Optimizer):
    """An optimizer that knows nothing of DTensors, over weights that every process holds whole.

    Args:
        groups: of DTensors.
        made: an optimizer of the groups it is given.
    """

    def __init__(self, groups: Groups, made: Callable[[Groups], torch.optim.Optimizer]) -> None:
        super().__init__(groups, {})
        # They share the memory of what they stand for.
        self.own = {p: nn.Parameter(p.to_local().detach()) for g in groups for p in g["params"]}
        self.inner = made([{**g, "params": [self.own[p] for p in g["params"]]} for g in groups])
        self._take()

    def _take(self) -> None:
        """Show the words and the state of the one inside as those of the weights themselves."""
        for group, inner in zip(self.param_groups, self.inner.param_groups, strict=True):
            group |= {word: value for word, value in inner.items() if word != "params"}
        known = ((p, self.inner.state.get(own)) for p, own in self.own.items())
        self.state = defaultdict(dict, {p: state for p, state in known if state})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One move of all."""
        for group, inner in zip(self.param_groups, self.inner.param_groups, strict=True):
            inner["lr"] = group["lr"]
        for parameter, own in self.own.items():
            own.grad = None if parameter.grad is None else parameter.grad.to_local()
        self.inner.step()
        self.inner.zero_grad(set_to_none=True)
        self._take()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """What was saved of the weights, or by one process alone."""
        state = {
            number: {w: getattr(value, "_local_tensor", value) for w, value in values.items()}
            for number, values in state_dict["state"].items()
        }
        self.inner.load_state_dict({**state_dict, "state": state})
        self._take()


def tables(model: nn.Module) -> set[int]:
    """`id` of the parameters of embeddings and of the output head."""
    found: list[nn.Module] = [m for m in model.modules() if isinstance(m, nn.Embedding)]
    head = getattr(model, "get_output_embeddings", lambda: None)()
    return {id(p) for m in (*found, *([head] if head is not None else [])) for p in m.parameters()}


def held(optimizer: torch.optim.Optimizer) -> int:
    """Bytes of its state."""
    states = [value for state in optimizer.state.values() for value in state.values()]
    return sum(value.nbytes for value in states if isinstance(value, Tensor))
