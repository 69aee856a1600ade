"""The model card that goes with a model: what it is, what it is made of, and how it is used."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from omnimix import config
from omnimix.checkpoints import licences
from omnimix.cli.tables import markdown
from omnimix.errors import OmnimixError

if TYPE_CHECKING:
    from omnimix.cli.parts import Counted
    from omnimix.compose.recipe import Recipe

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_WORDS = frozenset({"weights", "hub", "repo", "base_model_name_or_path"})
"""Words of a recipe or configuration whose value may be the hub id of a part."""


def card(
    folder: Path,
    recipe: Recipe,
    counted: Counted,
    repo: str,
    made_from: Mapping[str, str],
    licence: str | None = None,
) -> tuple[str, list[str]]:
    """The card as Markdown, and the conflicts that it names.

    Args:
        folder: of the model; its training words, scores and own README are taken from there.
        made_from: further parts by name, as hub ids.
        licence: of the whole; None takes what its parts allow.
    """
    parts = {**parts_of(folder, recipe), **made_from}
    held = {place: licences.of_part(place) for place in parts.values()}
    whole = licence if licence is not None else licences.fitting(held)
    problems = list(licences.conflicts(held, whole))
    sections = [
        _head(recipe, parts, whole),
        f"# {recipe.name}\n\n{recipe.about or 'A multimodal language model.'}",
        _usage(recipe, repo),
        _tokens(recipe, counted),
        _parts(parts, whole, problems),
        _training(folder),
        _scores(folder),
        _own(folder),
        _recipe(recipe),
    ]
    return "\n\n".join(section for section in sections if section) + "\n", problems


def parts_of(folder: Path, recipe: Recipe) -> dict[str, str]:
    """Hub ids of the parts that the recipe, the folder's configuration or its training words name."""
    found = dict(_ids(recipe.dump(), ""))
    for name in ("adapter_config.json", "training.yaml"):
        words = _read(folder / name)
        found |= {path or name: place for path, place in _ids(words, "")}
    return found


def _ids(words: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(words, Mapping):
        for key, value in words.items():
            if key in _WORDS and isinstance(value, str) and _HUB_ID.fullmatch(value):
                yield path or str(key), value
            else:
                yield from _ids(value, f"{path}.{key}" if path else str(key))
    elif isinstance(words, list):
        for i, value in enumerate(words):
            yield from _ids(value, f"{path}.{i}" if path else str(i))


def _read(path: Path) -> Any:
    """A file of words; None where there is none."""
    try:
        text = path.read_text(encoding="utf-8")
        return json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0]
        raise OmnimixError(f"cannot be read ({reason})", where=str(path)) from None


def _head(recipe: Recipe, parts: Mapping[str, str], whole: str | None) -> str:
    takes = list(recipe.modalities)
    known = licences.known().get(whole or "")
    words: dict[str, Any] = {
        "library_name": "omnimix",
        "pipeline_tag": "image-text-to-text" if "image" in takes else "text-generation",
        "tags": ["omnimix", "multimodal", *takes],
        "license": known.hub if known else "other",
    }
    if not known:
        words["license_name"] = re.sub(r"[^a-z0-9]+", "-", (whole or "see the parts").lower())
    if parts:
        words["base_model"] = sorted(set(parts.values()))
    return f"---\n{yaml.safe_dump(words, sort_keys=False)}---"


def _usage(recipe: Recipe, repo: str) -> str:
    image = ', image="picture.png"' if "image" in recipe.modalities else ""
    return f"""## Usage

```python
import omnimix
from huggingface_hub import snapshot_download

model = omnimix.load(snapshot_download("{repo}"))
print(model.answer("What is this?"{image}))
```"""


def _tokens(recipe: Recipe, counted: Counted) -> str:
    from omnimix.cli.show import millions

    rows = [
        (name, spec.media, spec.place, _sum(counted, name))
        for name, spec in recipe.modalities.items()
    ]
    table = markdown(("modality", "opens", "place", "tokens of an item"), rows)
    size = f"{millions(counted.total)} parameters" if not counted.problems else ""
    parts = [f"{part} {millions(number)}" for part, number in counted.parameters.items()]
    context = recipe.model_max_length or recipe.language.config.get("max_position_embeddings")
    facts = [size, *parts, f"context {context} tokens" if context else ""]
    shown = table if rows else ["Text only."]
    said = "; ".join(filter(None, facts)) + "."
    return "\n".join(["## Tokens and parameters", "", *shown, "", said])


def _sum(counted: Counted, name: str) -> str:
    tokens = counted.tokens.get(name)
    if tokens is None:
        return "not counted"
    inside = tokens.inside()
    return tokens.line() + (f" ({inside})" if inside else "")


def _parts(parts: Mapping[str, str], whole: str | None, problems: list[str]) -> str:
    lines = ["## Parts and licences", ""]
    if parts:
        rows = [
            (name, f"[{at}](https://huggingface.co/{at})", licences.of_part(at) or "unknown")
            for name, at in parts.items()
        ]
        lines += markdown(("part", "made from", "licence"), rows)
    else:
        lines.append("No part was made elsewhere, as far as the recipe says.")
    lines += ["", f"The whole: {whole or 'no licence was chosen'}."]
    lines += [f"- **Conflict:** {problem}." for problem in problems]
    return "\n".join(lines)


def _training(folder: Path) -> str:
    words = _read(folder / "training.yaml")
    stages = words.get("stages") if isinstance(words, Mapping) else None
    if not isinstance(stages, list) or not stages:
        return ""
    rows = []
    for stage in stages:
        trainable = f"`{', '.join(stage.get('trainable') or ['*'])}`"
        data = ", ".join(dict.fromkeys(_source(part) for part in stage.get("mixture") or []))
        steps = stage.get("max_steps") or f"{stage.get('num_train_epochs', '?')} epochs"
        batch = stage.get("batch_size") or 32
        lr = (stage.get("optimizer") or {}).get("lr", "default")
        rows.append((stage.get("name", "train"), trainable, data, steps, batch, lr))
    heads = ("stage", "trainable", "data", "steps", "batch_size", "lr")
    return "\n".join(["## Data and stages", "", *markdown(heads, rows)])


def _source(part: Mapping[str, Any]) -> str:
    """A dataset by its kind and the name of its file; folders of whoever trained stay at home."""
    data = part.get("data") or {}
    file = Path(str(data["path"])).name if data.get("path") else ""
    return " ".join(filter(None, [str(data.get("kind", "?")), file]))


def _scores(folder: Path) -> str:
    """Every report of `omnimix evaluate --out` that lies in the folder."""
    lines: list[str] = []
    for path in sorted(folder.glob("*.json")):
        report = _read(path)
        if not isinstance(report, Mapping) or not {"tasks", "benchmark"} <= report.keys():
            continue
        rows = [
            (task, f"{row['score']:.1%}", f"{row['low']:.1%} to {row['high']:.1%}", row["n"])
            for task, row in report["tasks"].items()
        ]
        heads = ("task", "score", "95 % interval", "questions")
        lines += ["", f"`{report['benchmark']}`:", "", *markdown(heads, rows)]
    return "\n".join(["## Scores", *lines]) if lines else ""


def _own(folder: Path) -> str:
    """The folder's own README, without its head, one level down."""
    try:
        text = (folder / "README.md").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
    text = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.S).strip()
    deeper = re.sub(r"^(#+ )", r"#\1", text, flags=re.M)
    return f"## Notes\n\n{deeper}" if text else ""


def _recipe(recipe: Recipe) -> str:

    return f"## Recipe\n\n```yaml\n{config.to_yaml(recipe.dump()).strip()}\n```"
