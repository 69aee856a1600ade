"""`omnimix new`: a folder with a recipe over pretrained parts, a training file, and the next commands."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from omnimix.errors import OmnimixError


def command(
    folder: Annotated[Path, typer.Argument(help="A new folder.")],
    language: Annotated[
        str, typer.Option(help="The language model: a hub id, or a folder in the hub's layout.")
    ],
    data: Annotated[list[Path], typer.Option(help="A file of training rows; may be repeated.")],
    vision: Annotated[
        list[str] | None,
        typer.Option(help="A tower for pictures: a hub id or a folder; may be repeated."),
    ] = None,
    audio: Annotated[
        list[str] | None, typer.Option(help="An encoder of sounds: a hub id or a folder.")
    ] = None,
    connector: Annotated[str, typer.Option(help="A row of the connectors.")] = "mlp",
    lora: Annotated[
        bool, typer.Option("--lora", help="Train adapters in place of all of the language model.")
    ] = False,
) -> None:
    """Begin a model from pretrained parts and your own rows."""
    _check(folder, connector, data, [*(vision or ()), *(audio or ())])
    was_there = folder.exists()
    folder.mkdir(parents=True, exist_ok=True)  # names are counted from it, so it has to be there
    try:
        towers = {"image": vision or [], "audio": audio or []}
        _write(folder, language, data, towers, connector, lora)
    except BaseException:
        if not was_there:
            folder.rmdir()
        raise
    typer.echo(
        f"written: {folder / 'recipe.yaml'}, train.yaml and README.md with the next commands"
    )


def _write(
    folder: Path,
    language: str,
    data: list[Path],
    senses: dict[str, list[str]],
    connector: str,
    lora: bool,
) -> None:
    base = folder.resolve()
    modalities = {
        name: _modality(name, [_name(one, base) for one in towers], base, connector)
        for name, towers in senses.items()
        if towers
    }
    words: dict[str, Any] = {
        "name": base.name,
        "language": {"weights": _name(language, base)},
        "template": "tokenizer",
        "modalities": modalities,
    }
    words["template"] = _style(words, base)
    if lora:
        words["adapters"] = [{"part": "language", "r": 16, "lora_alpha": 32, "lora_dropout": 0.05}]
    _proven(words, base)
    (folder / "recipe.yaml").write_text(_recipe_text(words))
    rows = [(os.path.relpath(file.resolve(), base), _rows(file)) for file in data]
    (folder / "train.yaml").write_text(_training_text(base.name, rows, lora))
    (folder / "README.md").write_text(_readme(base.name, folder, data[0], "image" in modalities))


def _check(folder: Path, connector: str, data: list[Path], towers: list[str]) -> None:
    from omnimix.registry import CONNECTORS

    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OmnimixError(
            "the folder is not empty", where=str(folder), hint="name a folder that does not exist"
        )
    if not towers:
        raise OmnimixError("no encoder is named", hint="add --vision ID_OR_FOLDER, or --audio")
    CONNECTORS[connector]
    for file in data:
        if not file.exists():
            raise OmnimixError(
                "there is no such file of rows", where=str(file), hint="check --data"
            )


def _name(part: str, base: Path) -> str:
    """A part as the recipe names it: a folder counted from the recipe's own, a hub id as it is."""
    path = Path(part).expanduser()
    return os.path.relpath(path.resolve(), base) if path.exists() else part


def _modality(name: str, towers: list[str], base: Path, connector: str) -> dict[str, Any]:
    """One branch of encoders side by side where they give equally many tokens, else a branch for each."""
    encoders = [_encoder(tower, base, name) for tower in towers]
    alike = len({tokens for _, tokens in encoders}) == 1
    groups = [[words for words, _ in encoders]] if alike else [[words] for words, _ in encoders]
    branches = [{"encoders": group, "connector": {"kind": connector}} for group in groups]
    return {"opens": name, "branches": branches}


def _encoder(tower: str, base: Path, sense: str) -> tuple[dict[str, Any], int]:
    """Words of an encoder, and how many tokens it gives."""
    import torch

    from omnimix import hub
    from omnimix.registry import ENCODERS

    hint = "name a hub id that can be reached, or a folder in the hub's layout"
    tagged = "/" not in tower and not (base / tower).exists()
    if tagged:
        words: dict[str, Any] = {"kind": "timm", "weights": tower}
        tower = ENCODERS.load("timm").named(words)
    place, _ = hub.located(tower, [base], f"{sense} encoder", hint, weights=False)
    said = hub.read_json(place / "config.json") or {} if place.is_dir() else {}
    if not said:
        raise OmnimixError("no config.json says what the encoder is", where=str(place), hint=hint)
    if not tagged:
        words = {"kind": _kind(said, sense), "weights": tower}
    if words["kind"] == "whisper":
        words["reads"] = "frames"
    row = ENCODERS.load(words["kind"])
    spec = row.model_validate(row.complete(words, place))
    with torch.device("meta"):
        features = spec.build().features
    if sense == "image":
        side = spec.img_size if words["kind"] == "timm" else spec.config["image_size"]
        steps = [step.dump() for step in spec.steps]
        words["steps"] = [{"kind": "resize", "size": side}, *steps]
        if features.prefix:
            words["finish"] = ["drop_prefix"]
    return words, features.tokens - features.prefix


def _kind(said: dict[str, Any], sense: str) -> str:
    if "architecture" in said:
        return "timm"
    heard = said.get("model_type")
    if sense == "audio":
        return "clap" if str(heard).startswith("clap") else "whisper"
    return "transformers"


def _style(words: dict[str, Any], base: Path) -> str:
    """`tokenizer`, or the plain style where the tokenizer's chat template gives none."""
    from omnimix.compose import recipe as recipes

    plain = {**words, "modalities": {}, "template": "plain"}
    recipes.parse(plain, "language", folders=[base])
    try:
        recipes.parse({**plain, "template": "tokenizer"}, "language", folders=[base])
    except OmnimixError as error:
        typer.echo(f"the style of prompts is plain: {error.sentence()}", err=True)
        return "plain"
    return "tokenizer"


def _proven(words: dict[str, Any], base: Path) -> None:
    """Refuse now what could not be built later."""
    from omnimix.compose import recipe as recipes
    from omnimix.compose.model import MultimodalLM
    from omnimix.compose.processor import Processor

    found = recipes.parse(words, "recipe.yaml", folders=[base])
    Processor.from_recipe(found, base, tokens_per_tile=MultimodalLM.on_meta(found).tokens_per_tile)


_COMMENTS = {
    "language:": "brings its configuration, tokenizer and special tokens",
    "template: tokenizer": "the prompt style of the tokenizer's chat template",
    "template: plain": "a style of omnimix; others: `ls prompts/templates`, or your own words",
    "modalities:": "the senses; `omnimix show recipe.yaml` counts their tokens",
    "adapters:": "LoRA beside the language model's linear layers",
}


def _recipe_text(words: dict[str, Any]) -> str:
    from omnimix import config

    lines = [f"# {words['name']}: a model over pretrained parts. Names are counted from this file."]
    for line in config.to_yaml(words).splitlines():
        comment = _COMMENTS.get(line)
        lines.append(f"{line}  # {comment}" if comment else line)
    return "\n".join(lines) + "\n"


def _rows(file: Path) -> int | None:
    """How many rows a JSON file has, as far as that is quickly told."""
    try:
        text = file.read_text(encoding="utf-8-sig")
        found = json.loads(text) if file.suffix == ".json" else text.split("\n")
    except (OSError, ValueError):
        return None
    return sum(1 for row in found if row) if isinstance(found, list) else None


def _training_text(name: str, rows: list[tuple[str, int | None]], lora: bool) -> str:
    # A step sees a twentieth of the rows, and at most as many as the published stages do.
    count = sum(number or 0 for _, number in rows)
    batch = 1
    while batch < 64 and batch * 40 <= count:
        batch *= 2
    parts = max(1, batch // 8)
    mixture = "\n".join(f"      - data: {{kind: rows, path: {path}}}" for path, _ in rows)
    length = "    order: shuffled\n    num_train_epochs: 1"
    learns = "[connectors, adapters]" if lora else "[connectors, language]"
    rate = "2.0e-4" if lora else "2.0e-5"
    return f"""# Two stages: the connector learns to speak to the frozen language model, then {"adapters" if lora else "the language model"} learn{"" if lora else "s"} with it.
#     omnimix train train.yaml
name: {name}
recipe: recipe.yaml
output_dir: run
seed: 0
stages:
  - name: connector
    trainable: [connectors]
    mixture:
{mixture}
{length}
    batch_size: {batch}
    gradient_accumulation_steps: {parts}
    optimizer: {{lr: 1.0e-3, weight_decay: 0.0}}
    schedule: {{warmup_ratio: 0.03}}
  - name: {"lora" if lora else "full"}
    trainable: {learns}
    mixture:
{mixture}
{length}
    batch_size: {batch}
    gradient_accumulation_steps: {parts}
    optimizer: {{lr: {rate}, weight_decay: 0.0}}
    schedule: {{warmup_ratio: 0.03}}
"""


def _readme(name: str, folder: Path, data: Path, sees: bool) -> str:
    picture = _picture(data, folder.resolve()) if sees else None
    asked = f" --image {picture}" if picture else ""
    return f"""# {name}

`recipe.yaml` says what the model is made of, `train.yaml` how it learns. In this folder:

```bash
omnimix check train.yaml
omnimix train train.yaml
omnimix chat run/model{asked} --ask "What is this?"
```

`run/model` is whole: it opens anywhere, without the parts that it was made from.
"""


def _picture(data: Path, base: Path) -> str | None:
    """A picture of the first rows, as the folder names it."""
    try:
        text = data.read_text(encoding="utf-8-sig")
        rows = json.loads(text) if data.suffix == ".json" else [json.loads(text.split("\n")[0])]
    except (OSError, ValueError):
        return None
    for row in rows[:50] if isinstance(rows, list) else ():
        name = row.get("image") if isinstance(row, dict) else None
        if isinstance(name, str) and (data.parent / name).is_file():
            return os.path.relpath((data.parent / name).resolve(), base)
    return None
