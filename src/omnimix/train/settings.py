"""Words of a training file: a model and a list of stages."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SerializeAsAny, model_validator

from omnimix import config
from omnimix.checkpoints import releases
from omnimix.compose import recipe as recipes
from omnimix.compose.features import FeatureCacheSpec
from omnimix.compose.recipe import Recipe
from omnimix.config import Spec, part
from omnimix.data.mixture import DataWords, MixturePart
from omnimix.data.ordered import Order, Rounds
from omnimix.data.packing import PackingSpec
from omnimix.data.sources import Source
from omnimix.errors import OmnimixError, RecipeError, first_of
from omnimix.parallel.layout import ParallelSpec
from omnimix.prompts.template import Template, by_name
from omnimix.registry import CHECKPOINTS, DATASETS, FORMATS, MEASURES, OBJECTIVES, did_you_mean
from omnimix.train import start
from omnimix.train.objectives import Objective
from omnimix.train.optimizers import Name

# pydantic's own `validate` is an old name of `model_validate`, which nobody calls here.
warnings.filterwarnings("ignore", 'Field name "validate" in "Stage" shadows', UserWarning)

_Slowness = Annotated[float, Field(ge=0, lt=1)]


class OptimizerSpec(Spec):
    """How weights move.

    Attributes:
        name: `adamw` (Loshchilov and Hutter 2019); `adamw_8bit` and `paged_adamw_8bit`, the same with moments in
            8 bits, and these in memory that the GPU may give back to the CPU (bitsandbytes); `adafactor`, which
            keeps rows and columns of the second moment alone and turns a rate above one over the root of the
            step down to it; `muon` for matrices, with AdamW for tables, vectors and kernels.
        lr: peak learning rate; AdamW moves every weight by about as much at a step, so it is never above 1.
        lr_scale: factors on the learning rate by name pattern, first match counts; the product is never above 1.
        weight_decay: of matrices.
        no_weight_decay: what has none: `embeddings` and everything that is no matrix, or `vectors` (biases
            and norms) alone, or `nothing`; or patterns on parameter names.
        max_grad_norm: largest norm of the gradient; None, 0 and infinity do not clip.
        clip_micro_batches: clip after every micro-batch of a step (arXiv 2408.08872), what was gathered
            before it included; else once, when the gradient is whole.
        betas: how slowly the running means of the gradient and of its square change.
        eps: added to the root of the running mean of the square.
    """

    name: Name = "adamw"
    lr: float = Field(default=1e-3, gt=0, le=1)
    lr_scale: dict[str, Annotated[float, Field(ge=0)]] = {}
    betas: tuple[_Slowness, _Slowness] = (0.9, 0.95)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.05, ge=0)
    no_weight_decay: Literal["embeddings", "vectors", "nothing"] | tuple[str, ...] = "embeddings"
    max_grad_norm: float | None = Field(default=1.0, ge=0, allow_inf_nan=True)
    clip_micro_batches: bool = False

    @model_validator(mode="after")
    def _known(self) -> Self:
        fields = type(self).model_fields
        own = [word for word in ("betas", "eps") if getattr(self, word) != fields[word].default]
        if self.name == "adafactor" and own:
            raise ValueError(f"adafactor has no {own[0]}; leave it out")
        for pattern, factor in self.lr_scale.items():
            if self.lr * factor > 1:
                raise ValueError(
                    f"lr_scale makes the rate of {pattern!r} {self.lr * factor:g}, above 1"
                )
        return self


class ScheduleSpec(Spec):
    """Linear warm-up, then a fall to `min_lr_ratio`, held at the peak until `hold`.

    Attributes:
        lr_scheduler_type: how the rate falls: as a cosine, in a straight line, or not at all.
        warmup_steps: steps of warm-up.
        warmup_ratio: warm-up as a share of the steps, in place of `warmup_steps`.
        hold: share of the steps before the rate begins to fall; abilities that switch on late want a
            late fall.
        min_lr_ratio: last rate as a share of the peak.
        zero_first: step k of w takes k/w of the rate, the very first step none at all even without
            warm-up, and behind the last step the cosine goes on (arXiv 2402.07865); `hold` and
            `min_lr_ratio` have no part in it.
        exact: a share of warm-up is not rounded to whole steps, step k of w takes k/w of the rate, and the
            cosine ends at `min_lr_ratio` (arXiv 2311.07575 reckons in fractions of an epoch).
    """

    lr_scheduler_type: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_steps: int = Field(default=100, ge=0)
    warmup_ratio: float | None = Field(default=None, ge=0, lt=1)
    zero_first: bool = False
    exact: bool = False
    hold: float = Field(default=0.0, ge=0, lt=1)
    min_lr_ratio: float = Field(default=0.0, ge=0, le=1)


class ValidateSpec(Spec):
    """Records that are not learned from, looked at on the way.

    Attributes:
        data: a dataset, as in a mixture; its first records are taken, in their order.
        every: steps between two looks; without it one at every checkpoint. The last step is always looked at.
        max_samples: at most so many records; all of them by default.
        measures: of the written answers, by the names of `omnimix evaluate --list`; every record is answered
            then, which takes its time.
        answers: records whose answers are written down with their pictures, in `answers` of the run's folder.
        max_new_tokens: most tokens of an answer.
        best: the number that says which weights are kept as the best: `loss`, or one of the measures.
        early_stopping_patience: looks without a better number after which the stage ends.
    """

    data: DataWords
    every: int | None = Field(default=None, gt=0)
    max_samples: int | None = Field(default=None, gt=0)
    measures: tuple[str, ...] = ()
    answers: int = Field(default=4, ge=0)
    max_new_tokens: int = Field(default=64, gt=0)
    best: str = "loss"
    early_stopping_patience: int | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _named(self) -> Self:
        for name in self.measures:
            if name not in MEASURES:
                raise ValueError(f"unknown measure {name!r}; {did_you_mean(name, MEASURES)}")
        if self.best not in ("loss", *self.measures):
            raise ValueError(
                f"best is {self.best!r}, which is neither loss nor one of the measures"
            )
        return self


class Stage(Spec):
    """What learns, from which mixture, for how long, under which objective.

    Attributes:
        name: of the stage in metrics and messages; `train` by default.
        trainable: patterns on parameter names (`*` matches anything), names of modules (`language`,
            `image`), or the words `adapters`, `connectors` and `encoders`; the first that matches a name
            wins, a leading `-` means frozen, and so is what no pattern matches.
        mixture: datasets and their shares.
        max_steps: optimizer steps.
        num_train_epochs: rounds over the dataset in place of `max_steps`, for the orders that have rounds.
        order: `mixture` draws from all datasets for ever; `shuffled`, `like_length` (little
            is padded), and the published `by_modality`, `by_length` and `by_kind` read one finite dataset in
            rounds (see `omnimix.data.orders` and `length_groups`).
        template: another style than the recipe's for this stage, `caption` for instance.
        max_length: most text tokens of a sample; what is over is dropped. Without it nothing is ever cut.
        batch_size: samples of one optimizer step, of all processes and micro-batches together; what other
            trainers call `per_device_train_batch_size` is `batch_size / gradient_accumulation_steps /
            processes`.
        gradient_accumulation_steps: micro-batches in which a batch passes through the model.
        drop_last: leave out the micro-batches at the end of an epoch that do not make a whole step, for the
            orders that have rounds; else they make a step of their own, divided by as many as the others.
        packing: samples one after another in one row instead of padded. `{tokens: 4096, items: 16}` packs them by
            best fit into rows of so many tokens and items; `batch_size` then counts such rows.
        group_by_length: batches of records of like length, by their tokens, in the orders `mixture` and `shuffled`.
        bf16: mixed precision under autocast where the device is quick at it; else, and elsewhere, float32.
        save_steps: steps between checkpoints.
        logging_steps: steps between lines of metrics.
        max_dropped: share of the records that may be left out since they cannot be used; beyond it the run
            stops. A single record always may.
        validate: records that are not learned from, looked at on the way.
        feature_cache: keep what frozen encoders give and read it in place of pictures: `true`, a folder, or
            `{folder, max_size, modalities}`; the numbers are the same.
        gradient_checkpointing: activations are computed again in the backward pass instead of kept: less
            memory, more time, the same numbers.
        objective: what is minimised: `sft`, the cross-entropy of the answers, by default.
        optimizer: which one, and its words.
        schedule: how the learning rate rises and falls.
    """

    name: str = "train"
    trainable: tuple[str, ...] = ("*",)
    mixture: tuple[MixturePart, ...] = Field(min_length=1)
    objective: Annotated[SerializeAsAny[Objective], part(OBJECTIVES)] = Field(
        default="sft", validate_default=True
    )
    optimizer: OptimizerSpec = OptimizerSpec()
    schedule: ScheduleSpec = ScheduleSpec()
    max_steps: int | None = Field(default=None, gt=0)
    num_train_epochs: int | None = Field(default=None, gt=0)
    order: Order = "mixture"
    template: Annotated[Template, by_name] | None = None
    max_length: int | None = Field(default=None, gt=0)
    batch_size: int = Field(default=32, gt=0)
    gradient_accumulation_steps: int = Field(default=1, gt=0)
    drop_last: bool = True
    packing: Annotated[bool | PackingSpec, config.or_table(PackingSpec)] = False
    group_by_length: bool = False
    bf16: bool = True
    save_steps: int = Field(default=500, gt=0)
    logging_steps: int = Field(default=10, gt=0)
    max_dropped: float = Field(default=0.01, ge=0, le=1)
    validate: ValidateSpec | None = None  # type: ignore[assignment]
    gradient_checkpointing: bool = False
    feature_cache: Annotated[bool | str | FeatureCacheSpec, config.or_table(FeatureCacheSpec)] = (
        False
    )

    @model_validator(mode="after")
    def _length(self) -> Self:
        if self.order == "mixture" and (
            self.max_steps is None or self.num_train_epochs is not None
        ):
            raise ValueError("a mixture has no end: give max_steps, not num_train_epochs")
        if self.max_steps is None and self.num_train_epochs is None:
            raise ValueError("give max_steps or num_train_epochs")
        if self.order != "mixture" and any(words.weight != 1 for words in self.mixture):
            raise ValueError(
                f"the order {self.order!r} reads every record once a round and knows no weight"
            )
        apart = any(words.apart for words in self.mixture)
        if apart and (not self.packing or self.max_length is not None or self.order != "mixture"):
            raise ValueError("apart needs packing: true, the order 'mixture', and no max_length")
        own = self.group_by_length or isinstance(self.packing, PackingSpec)
        if own and self.order not in ("mixture", "shuffled"):
            raise ValueError(
                f"the order {self.order!r} makes batches of its own: packing into tokens and group_by_length "
                "go with the orders 'mixture' and 'shuffled'"
            )
        if self.group_by_length and isinstance(self.packing, PackingSpec):
            raise ValueError("rows of a token budget are full anyway: leave out group_by_length")
        if apart and own:
            raise ValueError("apart needs packing: true, without a budget or group_by_length")
        return self

    def kept(self) -> FeatureCacheSpec | None:
        """Where features are kept, whichever way it was said."""
        said = self.feature_cache
        if isinstance(said, bool):
            return FeatureCacheSpec() if said else None
        return FeatureCacheSpec(folder=said) if isinstance(said, str) else said

    def rounds(self, source: Source, seed: int) -> Rounds:
        """The rounds in which the stage reads a finite dataset.

        Raises:
            TrainError: the dataset has no end, or does not suit the order.
        """
        return Rounds(
            source,
            self.order,
            self.batch_size,
            self.gradient_accumulation_steps,
            self.num_train_epochs,
            self.max_steps,
            seed,
            drop_last=self.drop_last,
        )


class Training(Spec):
    """A training run.

    Attributes:
        name: what the run is called.
        recipe: the model, by shipped name or file, or by the id of a released one, for the pretrained parts that
            it was made from; left out, that of `initial_checkpoint`.
        set: dotted overrides of the recipe.
        initial_checkpoint: folder of a model to begin with, or the name of a shipped or released one: what
            fits by name and shape is taken from it. None begins with the weights that the recipe names.
        quantization: hold the language model of `initial_checkpoint` quantized (`nf4`, `int8`) and frozen,
            with trainable adapters beside it (QLoRA); the finished model has its weights whole again.
        parallel: how the model lies over the processes of a run, see `omnimix.parallel.layout`.
        seed: of weights and mixture.
        num_workers: processes that prepare batches; None takes one per core.
        output_dir: folder of the run.
        trackers: where metrics go beside the run's folder: `tensorboard`, `wandb`, `trackio`, or another that
            accelerate knows.
        stages: one after another, each going on with the weights of the one before.
    """

    name: str
    recipe: str | None = None
    set: tuple[str, ...] = ()
    initial_checkpoint: str | None = None
    quantization: Literal["nf4", "int8"] | None = None
    parallel: ParallelSpec = ParallelSpec()
    seed: int = 0
    num_workers: int | None = Field(default=None, ge=0)
    output_dir: str
    trackers: tuple[str, ...] = ()
    stages: tuple[Stage, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _quantized(self) -> Self:
        if self.quantization is not None and self.initial_checkpoint is None:
            raise ValueError(
                "quantization needs initial_checkpoint: quantized weights cannot begin from nothing"
            )
        if self.quantization is not None and self.parallel != ParallelSpec():
            raise ValueError(
                "quantized weights stay whole in every process: leave the word parallel out"
            )
        if self.recipe is None and self.initial_checkpoint is None:
            raise ValueError("give recipe, initial_checkpoint, or both")
        return self

    def model(self, folder: Path) -> tuple[Recipe, Path]:
        """The recipe and the folder it came from; a file name is looked up beside the training file."""
        if self.recipe is None:
            assert self.initial_checkpoint is not None
            return start.opened(folder, self.initial_checkpoint).recipe(self.set, folder)
        if (release := releases.lookup(self.recipe)) is not None:
            family = CHECKPOINTS.load(release.about.reader or release.family)()
            parts = (*release.ids, release.connector, release.resize or "")
            words = family.untrained(*parts)
            return recipes.parse(words, self.recipe, self.set, [folder]), folder
        beside = folder / self.recipe
        name = beside if beside.suffix in (".yaml", ".yml") and beside.is_file() else self.recipe
        path = recipes.find(name)
        return recipes.load(path, self.set, [folder]), path.parent


FOLDER = recipes.FOLDER


def schema() -> dict[str, Any]:
    """JSON schema of training files, for editors."""
    whole = config.json_schema(
        Training, {"Objective": OBJECTIVES, "SourceSpec": DATASETS, "RowFormat": FORMATS}
    )
    whole["$defs"]["Template"]["properties"]["base"] = {"type": "string"}
    # A path alone is rows.
    whole["$defs"]["SourceSpec"]["anyOf"].append({"type": "string", "pattern": "[./]"})
    return whole


def _shipped() -> str:
    return ", ".join(sorted(path.name for path in FOLDER.glob("*.train.yaml")))


def unnamed() -> OmnimixError:
    """The error about a command without a training file."""
    return OmnimixError("no training file is named", hint=f"shipped are {_shipped()}")


def _unfound(path: Path) -> RecipeError:
    """The error about a path that is no training file."""
    what, hint = "there is no such training file", f"shipped are: {_shipped()}"
    if path.is_dir():
        what, hint = "this is a folder, not a training file", f"name the file; {hint}"
        if (path / "training.yaml").is_file():
            what = "this is the folder of a training run, not a training file"
            hint = (
                "`omnimix train FILE` goes on where its run stopped; its words are in training.yaml"
            )
        elif files := sorted(path.glob("*.yaml")):
            hint = f"name a file in it: {first_of([str(file) for file in files])}"
    return RecipeError(what, where=str(path), hint=hint)


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
            raise _unfound(file)
        file = shipped
    data: Any = config.read_yaml(file)
    if not isinstance(data, Mapping):
        raise RecipeError("a training file is a table of words", where=str(file))
    training = config.validate(Training, config.with_overrides(data, overrides), file.name)
    return training, Path.cwd() if file.parent == FOLDER else file.parent
