"""Learning from preferences: of two answers the chosen one shall become likelier than the rejected one."""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Collection, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field, PrivateAttr
from torch import Tensor
from torch.nn import functional

from omnimix.compose import adapters
from omnimix.compose.batch import Batch
from omnimix.compose.loss import learned
from omnimix.compose.model import MultimodalLM
from omnimix.errors import SampleError, TrainError
from omnimix.parallel.layout import ALONE, ModelLayout
from omnimix.parallel.process_group import ProcessGroup
from omnimix.train import checkpoint
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

    pairs: ClassVar[bool] = True

    beta: float = Field(default=0.1, gt=0)
    reference: Literal["start", "adapters_off"] = "start"
    length_normalized: bool = False
    _start: dict[str, Tensor] | None = PrivateAttr(default=None)
    _before: Tensor | None = PrivateAttr(default=None)

    @property
    def holds_start(self) -> bool:
        return self.reference == "start"

    @classmethod
    def takes(cls, sample: Sample) -> None:
        if sample.rejected is None:
            raise SampleError(
                "a record has one answer alone, and this stage learns from a chosen and a rejected one",
                hint="give rows with chosen and rejected, or set objective: sft",
            )
        if not sample.pair_scale:
            raise SampleError("there is nothing to learn: the pair's loss_scale is 0")

    def check(self, names: Collection[str]) -> None:
        others = sorted(name for name in names if not adapters.is_adapter(name))
        if self.reference == "adapters_off" and others:
            raise TrainError(
                f"reference: adapters_off is the model without its adapters, and {others[0]} "
                f"{'learns' if len(others) == 1 else f'and {len(others) - 1} other weights learn'} "
                "beside them, so that the reference would move as well",
                where="objective.reference",
                hint="set trainable: [adapters], or reference: start",
            )

    def begin(
        self,
        model: MultimodalLM,
        names: Collection[str],
        place: Path,
        resumed: bool,
        group: ProcessGroup,
    ) -> None:
        self.check(names)
        if self.reference == "adapters_off":
            return
        if resumed:
            with group.together():
                own = {n: p.detach() for n, p in model.named_parameters() if n in names}
                self._start = checkpoint.start_of(place, own)
            return
        self._start = _held(model, names)
        checkpoint.save_start(place, self._start, group)

    def amount(self, batch: Batch) -> float:
        return sum(batch.pair_scales)

    def against(self, model: MultimodalLM, batch: Batch, layout: ModelLayout = ALONE) -> Preference:
        """Itself, with how likely the reference finds the answers.

        A pass of its own, for weights that lie over processes can stand aside for others only while none is gathered.
        """
        if not batch.pairs:
            raise TrainError(
                f"the objective {self.kind!r} learns from pairs, and a record has one answer alone",
                where=batch.ids[0],
                hint="give rows with chosen and rejected",
            )
        if self.reference == "start" and self._start is None:
            self._start = _held(model, {n for n, p in model.named_parameters() if p.requires_grad})
        start = layout.standing_in(model, self._start or {})
        off = _without_adapters(model) if self.reference == "adapters_off" else nullcontext()
        found = self.model_copy()
        with torch.no_grad(), _still(model), start, off:
            found._before = layout.run(lambda: self._likely(model, batch))
        return found

    def loss(self, model: MultimodalLM, batch: Batch, count: float) -> Tensor:
        if self._before is None:
            return self.against(model, batch).loss(model, batch, count)
        score = self._likely(model, batch) - self._before
        chosen, rejected = score.chunk(2)
        scales = score.new_tensor(batch.pair_scales)
        return (self.of(chosen - rejected) * scales).sum() / count

    @abc.abstractmethod
    def of(self, margin: Float[Tensor, "pairs"]) -> Float[Tensor, "pairs"]:
        """The loss of each pair.

        Args:
            margin: by how much more likely the chosen answer has become, less that of the rejected one.
        """

    def _likely(self, model: MultimodalLM, batch: Batch) -> Float[Tensor, "answers"]:
        """The logarithm of every answer's probability, the chosen ones first."""
        words = batch.inputs(mask=False) | {"labels": batch.labels, "token_losses": True}
        scale = words.pop("loss_scale", None)
        places, _, scale = learned(batch.labels, None, scale)
        losses: Tensor = model(**words).loss
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


@contextlib.contextmanager
def _without_adapters(model: MultimodalLM) -> Iterator[None]:
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
        yield
    finally:
        for one in layers:
            one.enable_adapters(True)
        for parameter, learned_ in learns:
            parameter.requires_grad_(learned_)
