"""Words of a training file: a model and a list of stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SerializeAsAny, model_validator

from omnimix import config
from omnimix.compose import recipe as recipes
from omnimix.compose.recipe import Recipe
from omnimix.config import Spec, part
from omnimix.data.mixture import MixturePart
from omnimix.data.ordered import Order, Rounds
from omnimix.data.sources import Source
from omnimix.errors import RecipeError
from omnimix.prompts.template import Template, by_name
from omnimix.registry import OBJECTIVES
from omnimix.train.objectives import Objective


class OptimizerSpec(Spec):
    """AdamW (Loshchilov and Hutter 2019).

    Attributes:
        rate: peak learning rate.
        rates: factors on the rate by name pattern, first match counts.
        decay: weight decay on matrices.
        spares: what has no decay: `embeddings` and everything that is no matrix, or `vectors` (biases and
            norms) alone, or `nothing`; or patterns on parameter names.
        clip: largest norm of the gradient; None does not clip.
        clip_parts: clip after every part of a step, as xGen-MM's trainer does, what was gathered before it
            included; else once, when the gradient is whole.
    """

    rate: float = Field(default=1e-3, gt=0)
    rates: dict[str, float] = {}
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    decay: float = 0.05
    spares: Literal["embeddings", "vectors", "nothing"] | tuple[str, ...] = "embeddings"
    clip: float | None = 1.0
    clip_parts: bool = False


class ScheduleSpec(Spec):
    """Linear warm-up, then a fall to `final`, held at the peak until `hold`.

    Attributes:
        shape: how the rate falls: as a cosine, in a straight line, or not at all.
        warmup: steps of warm-up.
        share: warm-up as a share of the steps, in place of `warmup`.
        hold: share of the steps before the rate begins to fall; abilities that switch on late want a
            late fall.
        final: last rate as a share of the peak.
        zero_first: step k of w takes k/w of the rate, the very first step none at all even without
            warm-up, and behind the last step the cosine goes on (Prismatic); `hold` and `final` have no
            part in it.
        exact: a share of warm-up is not rounded to whole steps, step k of w takes k/w of the rate, and the
            cosine ends at `final` (SPHINX, which reckons in fractions of an epoch).
    """

    shape: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: int = Field(default=100, ge=0)
    share: float | None = Field(default=None, ge=0, lt=1)
    zero_first: bool = False
    exact: bool = False
    hold: float = Field(default=0.0, ge=0, lt=1)
    final: float = Field(default=0.0, ge=0, le=1)


class Stage(Spec):
    """What learns, from which mixture, for how long, under which objective.

    Attributes:
        learns: patterns on parameter names (`*` matches anything), names of parts (`language`, `image`), or
            the words `adapters`, `connectors` and `encoders`; the first that matches a name wins, a
            leading `-` means frozen.
        mixture: datasets and their shares.
        steps: optimizer steps.
        epochs: rounds over the dataset in place of `steps`, for the orders that have rounds.
        order: `mixture` draws from all datasets for ever; `shuffled`, `like_length` (little
            is padded), and the published `by_modality`, `by_length` and `by_kind` read one finite dataset in
            rounds (see `omnimix.data.orders` and `length_groups`).
        template: another style than the recipe's for this stage, `caption` for instance.
        cut: most text tokens of a sample; what is over is dropped. Without it nothing is ever cut.
        batch: samples of one optimizer step.
        accumulate: parts in which a batch passes through the model.
        drop_last: leave out the parts at the end of an epoch that do not make a whole step, for the orders that
            have rounds; else they make a step of their own, divided by as many parts as the others.
        pack: samples one after another in one row instead of padded.
        precision: `bf16` under autocast where the device is quick at it, else `fp32`.
        save_every: steps between checkpoints.
        log_every: steps between lines of metrics.
    """

    name: str = "train"
    learns: tuple[str, ...] = ("*",)
    mixture: tuple[MixturePart, ...] = Field(min_length=1)
    objective: Annotated[SerializeAsAny[Objective], part(OBJECTIVES)] = Field(
        default="sft", validate_default=True
    )
    optimizer: OptimizerSpec = OptimizerSpec()
    schedule: ScheduleSpec = ScheduleSpec()
    steps: int | None = Field(default=None, gt=0)
    epochs: int | None = Field(default=None, gt=0)
    order: Order = "mixture"
    template: Annotated[Template, by_name] | None = None
    cut: int | None = Field(default=None, gt=0)
    batch: int = Field(default=32, gt=0)
    accumulate: int = Field(default=1, gt=0)
    drop_last: bool = True
    pack: bool = False
    precision: Literal["bf16", "fp32"] = "bf16"
    save_every: int = Field(default=500, gt=0)
    log_every: int = Field(default=10, gt=0)

    @model_validator(mode="after")
    def _length(self) -> Self:
        if self.order == "mixture" and (self.steps is None or self.epochs is not None):
            raise ValueError("a mixture has no end: give steps, not epochs")
        if self.steps is None and self.epochs is None:
            raise ValueError("give steps or epochs")
        if self.order != "mixture" and len(self.mixture) != 1:
            raise ValueError(f"the order {self.order!r} reads a single dataset")
        apart = any(words.apart for words in self.mixture)
        if apart and (not self.pack or self.cut is not None or self.order != "mixture"):
            raise ValueError("apart needs pack: true, the order 'mixture', and no cut")
        return self

    def rounds(self, source: Source, seed: int) -> Rounds:
        """The rounds in which the stage reads a finite dataset.

        Raises:
            TrainError: the dataset has no end, or does not suit the order.
        """
        return Rounds(
            source,
            self.order,
            self.batch,
            self.accumulate,
            self.epochs,
            self.steps,
            seed,
            drop_last=self.drop_last,
        )


class Training(Spec):
    """A training run.

    Attributes:
        recipe: the model, by shipped name or file.
        set: dotted overrides of the recipe.
        start: folder of a model to start from, or the name of a shipped one; None starts fresh.
        quantize: hold the language model of `start` in few bits (`nf4`, `int8`), where adapters learn and it
            does not (QLoRA); the finished model has its weights whole again.
        seed: of weights and mixture.
        workers: processes that prepare batches; None takes one per core.
        out: folder of the run.
    """

    name: str
    recipe: str
    set: tuple[str, ...] = ()
    start: str | None = None
    quantize: Literal["nf4", "int8"] | None = None
    seed: int = 0
    workers: int | None = Field(default=None, ge=0)
    out: str
    stages: tuple[Stage, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _few_bits(self) -> Self:
        if self.quantize is not None and self.start is None:
            raise ValueError("quantize needs start: weights in few bits cannot begin from nothing")
        return self

    def model(self, folder: Path) -> tuple[Recipe, Path]:
        """The recipe and the folder it came from; a file name is looked up beside the training file."""
        beside = folder / self.recipe
        name = beside if beside.suffix in (".yaml", ".yml") and beside.is_file() else self.recipe
        path = recipes.find(name)
        return recipes.load(path, self.set), path.parent


FOLDER = recipes.FOLDER


def load(path: str | Path, overrides: Sequence[str] = ()) -> tuple[Training, Path]:
    """A training file and the folder that its relative paths start from.

    A path like `recipes/nano.train.yaml` that does not exist here is looked up among the shipped files.

    Raises:
        RecipeError: no such file, or an unusable word in it.
    """
    file = Path(path)
    if not file.is_file():
        shipped = FOLDER / file.name
        if not shipped.is_file():
            known = ", ".join(sorted(p.name for p in FOLDER.glob("*.train.yaml")))
            raise RecipeError(
                "there is no such training file", where=str(path), hint=f"shipped are: {known}"
            )
        file = shipped
    data: Any = config.read_yaml(file)
    if not isinstance(data, Mapping):
        raise RecipeError("a training file is a table of words", where=str(file))
    training = config.validate(Training, config.with_overrides(data, overrides), file.name)
    return training, Path.cwd() if file.parent == FOLDER else file.parent
