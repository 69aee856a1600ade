"""Where a model begins: its parts filled from pretrained weights, strictly, and a table of what became of them.

A part is filled under the one prefix at which all its tensors stand in the files, whatever that is: a tower out of
a whole model, a connector out of a trained one. What is missing or misshapen is refused; what is left over is told.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from omnimix import hub
from omnimix.checkpoints.files import tensors_of
from omnimix.checkpoints.parts import weight_files
from omnimix.compose.model import MultimodalLM
from omnimix.compose.recipe import Recipe
from omnimix.connectors.base import ConnectorSpec
from omnimix.encoders.base import EncoderSpec
from omnimix.errors import CheckpointError, OmnimixError, first_of

_HINT = "give a local folder in the hub's layout, or a hub id that can be reached"


class OtherLanguage(CheckpointError):
    """A start whose language model is another one."""


@dataclass(frozen=True)
class FilledPart:
    """What became of the weights of one part.

    Attributes:
        part: its name in the model's tree.
        source: where the weights came from; empty where all are fresh.
        filled: how many tensors were filled.
        fresh: names of tensors that keep the values they were drawn with, and which rows where not all.
        left_out: names of tensors in the files that have no place here.
    """

    part: str
    source: str
    filled: int
    fresh: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    def words(self) -> dict[str, Any]:
        """For a report as JSON."""
        return asdict(self)


def begin(
    recipe: Recipe,
    folders: Sequence[Path] = (),
    start: Mapping[str, Tensor] | None = None,
    called: str = "",
) -> tuple[MultimodalLM, list[FilledPart]]:
    """A model whose parts begin with the weights that the recipe names, and what became of these.

    Args:
        folders: what local names are counted from; a loaded recipe has full paths already.
        start: tensors of a finished model by name: what fits by name and shape is filled from them first, and a
            part that they know nothing of takes the weights that the recipe names.
        called: what the start is called in the report.

    Raises:
        OmnimixError: weights that cannot be had or do not fit; a start that does not hold the language model.
    """
    given = start or {}
    adapted = any("lora_" in name for name in given)
    model = MultimodalLM.from_recipe(recipe if adapted else recipe.without_adapters())
    done = fill_from(model, given, called) if start is not None else {}
    for name, spec, module in parts(model):
        if name not in done and spec.weights is not None:
            done[name] = _fill(name, spec, module, folders)
    for name, module in _pieces(model):
        if name not in done:
            done[name] = FilledPart(name, "", 0, tuple(module))
    order = [name for name, _ in _pieces(model)]
    report = [done[name] for name in [*order, *(n for n in done if n not in order)]]
    return (model if adapted else model.adapt(recipe)), report


def fill_from(
    model: MultimodalLM, tensors: Mapping[str, Tensor], called: str
) -> dict[str, FilledPart]:
    """Fill a model with what fits by name and shape; parts without a fitting tensor are not in the report.

    Raises:
        CheckpointError: the language model does not fit, but for rows that its tables have more.
    """
    own = model.state_dict()
    fits = {n: t for n, t in tensors.items() if n in own and own[n].shape == t.shape}
    for name, t in tensors.items():
        table = name in own and name.startswith("language.") and name not in fits
        if table and own[name].shape[1:] == t.shape[1:] and len(own[name]) > len(t):
            fits[name] = torch.cat([t.to(own[name]), own[name][len(t) :]])
    tied = _tied(model)
    wrong = [n for n in own if n.startswith("language.") and n not in fits and n not in tied]
    if wrong:
        what = "of another shape" if wrong[0] in tensors else "missing"
        raise OtherLanguage(
            f"{len(wrong)} weights of the language model do not fit, {wrong[0]} is {what}",
            where=called,
            hint="start from a model with the same language model",
        )
    model.load_state_dict(fits, strict=False)
    report: dict[str, FilledPart] = {}
    taken: set[str] = set()
    for part, names in _pieces(model):
        filled = [name for name in names if name in fits]
        taken |= set(names)
        left = [n for n in tensors if n not in fits and n.startswith(f"{part}.")]
        if filled:
            fresh = [n for n in names if n not in fits and n not in tied]
            fresh += [
                f"{n}: rows {len(tensors[n])} to {len(own[n]) - 1}"
                for n in filled
                if own[n].shape != tensors[n].shape
            ]
            report[part] = FilledPart(part, called, len(filled), tuple(fresh), tuple(left))
    known = tuple(report)
    rest = [n for n in tensors if n not in fits and not n.startswith(tuple(f"{p}." for p in known))]
    if rest:
        report["-"] = FilledPart("-", called, 0, (), tuple(rest))
    return report


def all_filled(model: MultimodalLM, called: str) -> list[FilledPart]:
    """The report on a model all of whose weights came from one place."""
    return [FilledPart(part, called, len(names)) for part, names in _pieces(model)]


def _tied(model: MultimodalLM) -> set[str]:
    from omnimix import _transformers

    return _transformers.tied_names(model)


def parts(model: MultimodalLM) -> Iterator[tuple[str, Any, Any]]:
    """All parts that may name weights: name in the tree, words, module."""
    for name, modality in model.recipe.modalities.items():
        for i, spec in enumerate(modality.branches):
            branch: Any = model.modality(name).branches[i]
            for j, encoder in enumerate(spec.encoders):
                yield f"{name}.branches.{i}.encoders.{j}", encoder, branch.encoders[j]
            yield f"{name}.branches.{i}.connector", spec.connector, branch.connector
    yield "language", model.recipe.language, model.language


def _pieces(model: MultimodalLM) -> list[tuple[str, list[str]]]:
    """Each part of the tree and the names of its tensors; what belongs to no part goes by its first two words."""
    names = [name for name, _, _ in parts(model)]
    found: dict[str, list[str]] = {}
    for name in model.state_dict():
        part = next((p for p in names if name.startswith(f"{p}.")), ".".join(name.split(".")[:2]))
        found.setdefault(part, []).append(name)
    return list(found.items())


def _fill(name: str, spec: Any, module: nn.Module, folders: Sequence[Path]) -> FilledPart:
    """Fill one part from the weights that its words name."""
    try:
        place, _ = hub.located(spec.weights, [*folders, Path("/")], name, _HINT)
        if isinstance(spec, EncoderSpec | ConnectorSpec):
            return filled(name, spec, module, place)
        fresh, left = spec.start(module, place)
    except OmnimixError as error:
        raise error.at(f"{name}: weights") from None
    count = len(module.state_dict()) - sum(rows == "all of it" for rows in fresh.values())
    rows = tuple(f"{name}.{inner}: {which}" for inner, which in fresh.items())
    return FilledPart(name, spec.weights, count, rows, tuple(left))


def filled(
    name: str, spec: EncoderSpec | ConnectorSpec, module: nn.Module, place: Path
) -> FilledPart:
    """Fill an encoder or a connector from a folder or file.

    Raises:
        CheckpointError: tensors that are missing, misshapen, or there under several prefixes.
    """
    tensors: Mapping[str, Tensor] = {}
    for file in weight_files(place, name):
        tensors = {**tensors, **tensors_of(file)}
    may_miss: tuple[str, ...] = ()
    if isinstance(spec, EncoderSpec):
        tensors = spec.stored(module, tensors, place)
        may_miss = spec.fresh()
    own = module.state_dict()
    pairs = _matched(own, tensors, name)
    missing = [n for n in own if n not in pairs and not n.endswith("num_batches_tracked")]
    fresh = [n for n in missing if any(fnmatchcase(n, pattern) for pattern in may_miss)]
    if len(fresh) < len(missing) and isinstance(spec, EncoderSpec):
        idle = _idle(spec)
        fresh = [n for n in missing if n in fresh or n in idle]
    wrong = [f"{n} is missing" for n in missing if n not in fresh]
    wrong += [
        f"{n} is {list(tensors[key].shape)} instead of {list(own[n].shape)}"
        for n, key in pairs.items()
        if tensors[key].shape != own[n].shape
    ]
    if wrong:
        raise CheckpointError(
            f"{len(wrong)} of {len(own)} weights do not fit: {first_of(wrong)}",
            where=str(place),
            hint="the words of the part must be those that the weights were made with",
        )
    module.load_state_dict({n: tensors[key] for n, key in pairs.items()}, strict=False)
    used = set(pairs.values())
    left = tuple(key for key in tensors if key not in used)
    told = tuple(f"{name}.{n}" for n in fresh)
    return FilledPart(name, str(spec.weights), len(pairs), told, left)


def _idle(spec: EncoderSpec) -> set[str]:
    """Names of an encoder's weights that its features do not depend on, such as the norm of a head.

    Read off a gradient on the meta device, where nothing is computed; what cannot be run there has none.
    """
    with torch.device("meta"):
        twin, tile = spec.build().eval(), spec.tile()
    if tile is None:
        return set()
    own = dict(twin.named_parameters())
    try:
        total = twin.requires_grad_(True)(tile).sum()
        slopes = torch.autograd.grad(total, list(own.values()), allow_unused=True)
    except (RuntimeError, ValueError):
        return set()
    found: list[Tensor | None] = list(slopes)
    return {name for name, slope in zip(own, found, strict=True) if slope is None}


def _matched(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], name: str) -> dict[str, str]:
    """For each of a module's names the key it stands under: one prefix for all, the one at which most fit.

    Raises:
        CheckpointError: several prefixes serve alike, none of which is the part's own name.
    """
    first = next(iter(own), "").split(".")[0]
    # A wrapper of ours (`tower.`, `trunk.`) is not in the files.
    common = f"{first}." if all(n.startswith(f"{first}.") for n in own) else ""
    scores: dict[tuple[str, str], tuple[int, int]] = {}
    for strip in {"", common}:
        for prefix in _prefixes([n.removeprefix(strip) for n in own], tensors):
            keys = [f"{prefix}{n.removeprefix(strip)}" for n in own]
            there = [(n, k) for n, k in zip(own, keys, strict=True) if k in tensors]
            fitting = sum(tensors[k].shape == own[n].shape for n, k in there)
            scores[strip, prefix] = fitting, len(there)
    if not scores:
        return {}
    best = max(scores.values())
    served = [pair for pair, score in scores.items() if score == best]
    # The same keys may be reached with the wrapper and without it.
    prefixes = {f"{prefix}{'' if strip else common}": (strip, prefix) for strip, prefix in served}
    chosen = prefixes.get(f"{name}.{common}") or prefixes.get(f"{name}.")
    if chosen is None and len(prefixes) > 1:
        raise CheckpointError(
            f"several parts of the file serve alike: {', '.join(sorted(p.rstrip('.') for p in prefixes))}",
            hint="save the one that is meant as a file of its own",
        )
    strip, prefix = chosen or served[0]
    under = {n: f"{prefix}{n.removeprefix(strip)}" for n in own}
    return {n: key for n, key in under.items() if key in tensors}


def _prefixes(names: Sequence[str], keys: Iterable[str]) -> set[str]:
    """What stands before any of a few of the names in keys."""
    probes = names[:3]
    return {
        key.removesuffix(probe)
        for key in keys
        for probe in probes
        if key == probe or key.endswith(f".{probe}")
    }


def lines(report: Sequence[FilledPart]) -> list[str]:
    """What became of all weights, a line a part; nothing where all are fresh."""
    if not any(one.source for one in report):
        return []
    width = max(len(one.part) for one in report)
    return [_line(one, width) for one in report]


def _line(one: FilledPart, width: int) -> str:
    said = [f"{one.filled} filled from {one.source}"] if one.filled else []
    said += [f"{len(one.fresh)} fresh ({_some(one.fresh)})"] if one.fresh else []
    said += [f"{len(one.left_out)} left out ({_some(one.left_out)})"] if one.left_out else []
    return f"weights  {one.part:<{width}}  {', '.join(said) or 'none'}"


def _some(names: Sequence[str]) -> str:
    return f"{names[0]} ..." if names[1:] else names[0]
