"""Learning from preferences: of two answers the chosen one shall become likelier than the rejected one."""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from pydantic import Field, PrivateAttr
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.func import functional_call
from torch.nn import functional

from omnimix.compose import adapters
from omnimix.compose.batch import Batch
from omnimix.compose.loss import learned
from omnimix.compose.model import MultimodalLM
from omnimix.disk import writing
from omnimix.errors import SampleError, TrainError
from omnimix.train.objectives import Objective
from omnimix.types import Sample


class Preference(Objective):
    """What DPO and IPO share.

    Attributes:
        beta: how closely the model is held to the reference.
        reference: what the model is compared with: `start`, the model that the stage began with, of which only what
            learns is held twice; or `adapters_off`, the model without its adapters.
        length_normalized: take the mean over an answer's tokens in place of their sum.
    """

    beta: float = Field(default=0.1, gt=0)
    reference: Literal["start", "adapters_off"] = "start"
    length_normalized: bool = False
    _start: dict[str, Tensor] | None = PrivateAttr(default=None)

    @classmethod
    def takes(cls, sample: Sample) -> None:
        if sample.rejected is None:
            raise SampleError(
                "a record has one answer alone, and this stage learns from a chosen and a rejected one",
                hint="give rows with chosen and rejected, or set objective: sft",
            )

    def begin(
        self, model: MultimodalLM, names: Collection[str], file: Path, resumed: bool, write: bool
    ) -> None:
        if self.reference == "adapters_off":
            return
        if resumed:
            try:
                self._start = load_file(file, device=str(model.device))
            except (OSError, SafetensorError) as error:
                raise TrainError(
                    f"the model that the stage began with cannot be read ({error})",
                    where=str(file),
                    hint="bring the file back, or train into another folder",
                ) from None
            return
        self._start = _held(model, names)
        if not write:
            return
        with writing(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            draft = file.with_suffix(".part")
            save_file({n: t.contiguous() for n, t in self._start.items()}, draft)
            draft.replace(file)

    def amount(self, batch: Batch) -> float:
        return batch.pairs

    def loss(self, model: MultimodalLM, batch: Batch, count: float) -> Tensor:
        if not batch.pairs:
            raise TrainError(
                f"the objective {self.kind!r} learns from pairs, and a record has one answer alone",
                where=batch.ids[0],
                hint="give rows with chosen and rejected",
            )
        if self.reference == "start" and self._start is None:
            self._start = _held(model, {n for n, p in model.named_parameters() if p.requires_grad})
        with torch.no_grad(), _still(model):
            before = self._likely(model, batch, self._as_it_was(model))
        score = self._likely(model, batch, lambda words: model(**words).loss) - before
        chosen, rejected = score.chunk(2)
        return self.of(chosen - rejected).sum() / count

    @abc.abstractmethod
    def of(self, margin: Float[Tensor, "pairs"]) -> Float[Tensor, "pairs"]:
        """The loss of each pair.

        Args:
            margin: by how much more likely the chosen answer has become, less that of the rejected one.
        """

    def _as_it_was(self, model: MultimodalLM) -> Any:
        if self.reference == "start":
            start = self._start
            assert start is not None
            if any(isinstance(parameter, DTensor) for parameter in model.parameters()):
                raise TrainError(
                    "what the stage began with cannot stand in for weights that are cut over processes",
                    where="objective.reference",
                    hint="set reference: adapters_off, or leave parallel out",
                )
            return lambda words: functional_call(model, start, (), words).loss
        return lambda words: _without_adapters(model, words)

    def _likely(self, model: MultimodalLM, batch: Batch, run: Any) -> Float[Tensor, "answers"]:
        """The logarithm of every answer's probability, the chosen ones first."""
        words = batch.inputs(mask=False) | {"labels": batch.labels, "token_losses": True}
        scale = words.pop("loss_scale", None)
        places, _, scale = learned(batch.labels, None, scale)
        losses: Tensor = run(words)
        width, borders = batch.input_ids.shape[1], batch.cu_seq_lens_q
        if borders is None:
            owner = places // width
        else:
            owner = torch.searchsorted(borders, places.to(borders.dtype), right=True) - 1
        scale = torch.ones_like(losses) if scale is None else scale
        sums = losses.new_zeros(2 * batch.pairs)
        each: Tensor = sums.index_add(0, owner, -losses * scale)
        if self.length_normalized:
            each = each / sums.index_add(0, owner, scale).clamp(min=1e-9)
        return each


class Dpo(Preference):
    """Direct preference optimization (arXiv 2305.18290).

    Attributes:
        label_smoothing: how often the preference is thought to be the wrong way round.
    """

    kind: Literal["dpo"] = "dpo"
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)

    def of(self, margin: Float[Tensor, "pairs"]) -> Float[Tensor, "pairs"]:
        right = functional.logsigmoid(self.beta * margin)
        wrong = functional.logsigmoid(-self.beta * margin)
        return -(1 - self.label_smoothing) * right - self.label_smoothing * wrong


class Ipo(Preference):
    """Identity preference optimization (arXiv 2310.12036), with means over an answer's tokens unless told otherwise."""

    kind: Literal["ipo"] = "ipo"
    length_normalized: bool = True

    def of(self, margin: Float[Tensor, "pairs"]) -> Float[Tensor, "pairs"]:
        return (margin - 1 / (2 * self.beta)).square()


def _held(model: MultimodalLM, names: Collection[str]) -> dict[str, Tensor]:
    return {n: p.detach().clone() for n, p in model.named_parameters() if n in names}


@contextlib.contextmanager
def _still(model: MultimodalLM) -> Iterator[None]:
    """Without dropout and moving statistics."""
    was = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was)


def _without_adapters(model: MultimodalLM, words: dict[str, Any]) -> Tensor:
    layers = [one for one in adapters.layers(model).values() if not one.disable_adapters]
    if not layers:
        raise TrainError(
            "the model has no adapters whose absence could be the reference",
            where="objective.reference",
            hint="set reference: start, or give the recipe adapters",
        )
    learns = [(p, p.requires_grad) for one in layers for p in one.parameters()]
    try:
        for one in layers:
            one.enable_adapters(False)
        loss: Tensor = model(**words).loss
    finally:
        for one in layers:
            one.enable_adapters(True)
        for parameter, learned_ in learns:
            parameter.requires_grad_(learned_)
    return loss
