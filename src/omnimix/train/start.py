"""Where a run begins: fresh weights, a finished model, or one that is quantized."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from omnimix._transformers import tied_names
from omnimix.checkpoints import base, pretrained, reading, releases
from omnimix.checkpoints.base import Parts, Release
from omnimix.checkpoints.parts import weight_files
from omnimix.checkpoints.pretrained import FilledPart
from omnimix.compose import recipe as recipes
from omnimix.compose.adapters import names_adapters, whole
from omnimix.compose.holding import Quantized
from omnimix.compose.model import MultimodalLM
from omnimix.compose.recipe import Recipe
from omnimix.errors import TrainError
from omnimix.generate import folder as folders
from omnimix.parallel.layout import own_part
from omnimix.train.checkpoint import WEIGHTS, learnable

STARTED = "start from a model of the same recipe, or of one with the same language model, or leave 'initial_checkpoint' out to begin with fresh weights"


@dataclass(frozen=True)
class StartModel:
    """The model that `initial_checkpoint` names: a folder of ours, or a released checkpoint.

    Attributes:
        place: its folder.
        release: what a family's reader says of it; None for a folder of ours.
    """

    place: Path
    release: Release | None = None

    def tensors(self) -> Mapping[str, Tensor]:
        """All weights by our names.

        Raises:
            CheckpointError: files that cannot be read, or keys that nobody knows.
        """
        if self.release is not None:
            return reading.native_tensors(self.release)[0]
        found: dict[str, Tensor] = {}
        for file in weight_files(self.place, "model to start from"):
            found |= reading.tensors_of(file)
        return found

    def recipe(self, overrides: Sequence[str], folder: Path) -> tuple[Recipe, Path]:
        """Its recipe with dotted overrides, and the folder of its tokenizer.

        Args:
            folder: what local names in the overrides are counted from.
        """
        if self.release is None:
            return recipes.load(self.place, overrides, [folder]), self.place
        words = self.release.recipe.dump(defaults=True)
        looked = [self.release.folder, folder]
        return recipes.parse(words, self.release.recipe.name, overrides, looked), looked[0]


@dataclass(frozen=True)
class Pieces:
    """The weights of a model folder of ours, of which every process reads what it holds.

    Attributes:
        place: the folder.
        files: where each tensor lies, by name.
    """

    place: Path
    files: dict[str, Path]

    @classmethod
    def of(cls, place: Path) -> Pieces:
        """What the files of a folder hold; their heads alone are read."""
        files: dict[str, Path] = {}
        for file in weight_files(place, "model to start from"):
            with safe_open(file, "pt") as found:
                files |= dict.fromkeys(found.keys(), file)
        return cls(place, files)

    def fit(self, model: MultimodalLM) -> bool:
        """Whether they are all weights of a model, and no others."""
        shared = tied_names(model)
        own = {n: list(t.shape) for n, t in model.state_dict().items() if n not in shared}
        return own.keys() == self.files.keys() and all(
            self._slices(file, lambda name, one: own[name] == one.get_shape())
            for file in set(self.files.values())
        )

    def _slices(self, file: Path, look: Callable[[str, Any], bool]) -> bool:
        with safe_open(file, "pt") as found:
            return all([look(name, found.get_slice(name)) for name in found.keys()])  # noqa: SIM118

    def fill(self, model: MultimodalLM) -> None:
        """Fill what this process holds of a model."""
        own = model.state_dict()

        def put(name: str, one: Any) -> bool:
            local, where = own_part(own[name].detach())
            local.copy_(one[where or ...])
            return True

        for file in set(self.files.values()):
            self._slices(file, put)


def in_pieces(
    checkpoint: str | None, folder: Path, recipe: Recipe
) -> tuple[MultimodalLM, Pieces] | None:
    """A model on the meta device and where its weights lie; None where they have to be read as a whole.

    Args:
        checkpoint, folder: as in `begun`.
    """
    start = None if checkpoint is None else opened(folder, checkpoint)
    if start is None or start.release is not None:
        return None
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        model = MultimodalLM.from_recipe(recipe)
    model.tie_weights()  # every parameter became one of its own there
    pieces = Pieces.of(start.place)
    return (model, pieces) if pieces.fit(model) else None


def opened(folder: Path, words: str) -> StartModel:
    """What `initial_checkpoint` names: a path counted from `folder`, a shipped model, or a released one by its id.

    Raises:
        TrainError: no such folder, or one without weights; says what lies there.
    """
    beside = folder / words
    known = words in folders.shipped() or releases.lookup(words) is not None
    away = known and not beside.exists()
    local = folders.locate(words) if away else releases.Local(beside, {})
    found = local.recognised
    if found is None and local.folder.is_dir() and not (local.folder / "recipe.yaml").is_file():
        found = base.recognise(local.folder)
    if found is not None:
        return StartModel(local.folder, base.open_release(found, Parts(local.parts)))
    check_start(local.folder)
    return StartModel(local.folder)


def check_start(place: Path) -> None:
    """Refuse a folder that a run cannot start from, before anything is built.

    Raises:
        TrainError: no such folder, or one without weights; says what lies there.
    """
    if not place.is_dir():
        what = "is a file" if place.exists() else "does not exist"
        raise TrainError(
            f"the folder to start from {what}",
            where=f"initial_checkpoint: {place}",
            hint="name a shipped model, a released one by its id, or a model folder counted from the "
            "training file's own",
        )
    if not any((place / name).is_file() for name in (WEIGHTS, f"{WEIGHTS}.index.json")):
        present = ", ".join(sorted(path.name for path in place.iterdir())[:6])
        raise TrainError(
            f"the folder to start from has no {WEIGHTS} (it holds {present or 'nothing'})",
            where=f"initial_checkpoint: {place}",
            hint="a finished run keeps its model in its folder 'model'",
        )


def begun(
    checkpoint: str | None,
    folder: Path,
    recipe: Recipe,
    device: torch.device,
    quantization: str | None = None,
) -> tuple[MultimodalLM, list[FilledPart]]:
    """The model that a run begins with, and what became of the weights of its parts.

    Args:
        checkpoint, quantization: the training file's words `initial_checkpoint` and `quantization`.
        folder: the training file's own.

    Raises:
        OmnimixError: weights that cannot be had or do not fit.
    """
    if checkpoint is None:
        return pretrained.begin(recipe, [folder])
    start = opened(folder, checkpoint)
    if quantization is not None:
        return quantized(start.place, recipe, quantization, device), []
    return started(start, recipe, [folder])


def started(
    start: StartModel, recipe: Recipe, folders: Sequence[Path] = ()
) -> tuple[MultimodalLM, list[FilledPart]]:
    """A model of the recipe with the weights of another one, where they fit by name and shape.

    Where that model has no adapters and the recipe has, they are added to it, so that training begins with its
    own answers. Parts that it knows nothing of begin with the weights that the recipe names, or fresh.

    Raises:
        TrainError: another language model than the recipe's, or adapters that it does not have.
    """
    tensors = start.tensors()
    if names_adapters(tensors) and not recipe.adapters:
        raise TrainError(
            "the model to start from has adapters, and the recipe has none",
            where=str(start.place),
            hint="merge them first: omnimix merge FOLDER OUT; or add adapters to the recipe",
        )
    try:
        return pretrained.begin(recipe, folders, tensors, start.place.name)
    except pretrained.OtherLanguage as error:
        raise TrainError(
            f"the weights do not fit the model ({error.what})", where=str(start.place), hint=STARTED
        ) from None


def quantized(place: Path, recipe: Recipe, scheme: str, device: torch.device) -> MultimodalLM:
    """As `started`, with the language model quantized and adapters to learn beside it.

    Raises:
        TrainError: a recipe without adapters, or a start of another recipe.
        OmnimixError: a package that is missing, or a device it does not serve.
    """
    if not recipe.adapters:
        raise TrainError(
            "a quantized model learns through adapters, and the recipe has none",
            where="quantization",
            hint="add adapters: [{part: language, r: 16}] to the recipe",
        )
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    model, _ = folders.read(place, device, holding=Quantized(scheme, device, dtype))
    had, plain = model.recipe, recipe.without_adapters()
    same = had.language == plain.language and had.modalities == plain.modalities
    if not same or had.adapters not in ((), recipe.adapters):
        raise TrainError(
            "the model to start from has another recipe", where=str(place), hint=STARTED
        )
    return model if had.adapters else model.adapt(recipe)


def learned(model: MultimodalLM) -> dict[str, Tensor]:
    """What learned beside quantized weights; ranks that hold parts of it all have to ask."""
    return {name: whole(tensor) for name, tensor in learnable(model).items()}


def made_whole(learned: Mapping[str, Tensor], start: StartModel, recipe: Recipe) -> MultimodalLM:
    """What was learned beside quantized weights, on the whole weights of the start."""
    model, _ = started(start, recipe)
    model.eval()
    found = model.load_state_dict(learned, strict=False)
    assert not found.unexpected_keys
    return model
