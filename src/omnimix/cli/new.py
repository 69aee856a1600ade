"""`omnimix new`: a folder with a recipe over pretrained parts, a training file, and the next commands."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from omnimix.cli import options
from omnimix.errors import OmnimixError


def command(
    folder: Annotated[Path, typer.Argument(help="A new folder.")],
    language: Annotated[
        str, typer.Option(help="The language model: a hub id, or a folder in the hub's layout.")
    ],
    data: Annotated[list[Path], typer.Option(help="A file of training rows; may be repeated.")],
    media: options.Media = None,
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
    _check(folder, connector, [*data, *map(Path, media or ())], [*(vision or ()), *(audio or ())])
    was_there = folder.exists()
    folder.mkdir(parents=True, exist_ok=True)  # names are counted from it, so it has to be there
    try:
        towers = {"image": vision or [], "audio": audio or []}
        _write(folder, language, data, tuple(media or ()), towers, connector, lora)
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
    media: tuple[str, ...],
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
    words["template"] = {"base": _style(words, base), "media_separator": "\n"}
    if lora:
        words["adapters"] = [{"part": "language", "r": 16, "lora_alpha": 32, "lora_dropout": 0.05}]
    _proven(words, base)
    rows = [(os.path.relpath(file.resolve(), base), _rows(file, base)) for file in data]
    roots = [os.path.relpath(Path(one).resolve(), base) for one in media]
    readme = _readme(base.name, folder, data[0], media, "image" in modalities)
    (folder / "recipe.yaml").write_text(_recipe_text(words))
    (folder / "train.yaml").write_text(_training_text(base.name, rows, roots, lora))
    (folder / "README.md").write_text(readme)


def _check(folder: Path, connector: str, places: list[Path], towers: list[str]) -> None:
    from omnimix.registry import CONNECTORS

    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OmnimixError(
            "the folder is not empty", where=str(folder), hint="name a folder that does not exist"
        )
    if not towers:
        raise OmnimixError("no encoder is named", hint="add --vision ID_OR_FOLDER, or --audio")
    CONNECTORS[connector]
    for place in places:
        if not place.exists():
            raise OmnimixError(
                "there is no such file or folder", where=str(place), hint="check --data and --media"
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
    "template:": "how a conversation is written",
    "  base: tokenizer": "the prompt style of the tokenizer's chat template",
    "  base: plain": "a style of omnimix, since the tokenizer gives none; your own words go here",
    '  media_separator: "\\n"': "between a picture and its question, whoever asks; as LLaVA's rows have it",
    "modalities:": "the senses; `omnimix show recipe.yaml` counts their tokens",
    "adapters:": "LoRA beside the language model's linear layers",
}


def _recipe_text(words: dict[str, Any]) -> str:
    from omnimix import config

    lines = [f"# {words['name']}: a model over pretrained parts. Names are counted from this file."]
    text = config.to_yaml(words).replace("media_separator: '\n\n    '", 'media_separator: "\\n"')
    for line in text.splitlines():
        comment = _COMMENTS.get(line)
        lines.append(f"{line}  # {comment}" if comment else line)
    return "\n".join(lines) + "\n"


def _rows(file: Path, base: Path) -> int:
    """How many rows a file has; they are opened as training will open them."""
    from omnimix.data.rows import RowsSpec

    return RowsSpec(path=str(file.resolve())).open(base).length or 0


HELD = 20
"""One row in so many is held out to validate with."""

MOST_HELD = 200


def _held_out(count: int) -> int:
    """How many rows at the end of a file are held out; a file of a few rows is learned whole."""
    return min(MOST_HELD, count // HELD)


LEAST_STEPS = 100
"""Steps below which hardly anything is learned."""

MOST_EPOCHS = 10
"""Rounds beyond which rows are rather learned by heart."""


def _length(count: int) -> tuple[int, int]:
    """Rows of a step and rounds over the rows: large steps as published ones have, if the rows give enough of them."""
    batch = 8
    while batch < 128 and batch * 2 * LEAST_STEPS <= count:
        batch *= 2
    batch = min(batch, 1 << (max(count, 1).bit_length() - 1))
    return batch, max(1, min(MOST_EPOCHS, -(-LEAST_STEPS * batch // max(count, 1))))


def _training_text(name: str, rows: list[tuple[str, int]], roots: list[str], lora: bool) -> str:
    left = [(path, _held_out(count)) for path, count in rows]
    batch, epochs = _length(sum(count for _, count in rows) - sum(held for _, held in left))
    media = f", media: {json.dumps(roots)}" if roots else ""
    mixture = "\n".join(
        f"      - data: {{path: {json.dumps(path)}{media}"
        + (f', slice: ":-{held}"}}' if held else "}")
        for path, held in left
    )
    path, held = max(left, key=lambda pair: pair[1])
    rest = f"""    mixture:
{mixture}
    order: shuffled
    num_train_epochs: {epochs}
    batch_size: {batch}
    gradient_accumulation_steps: {max(1, batch // 8)}
    schedule: {{warmup_ratio: 0.03}}
"""
    if held:
        rest += f"""    validate:  # the last {held} rows of the file, which are not learned: let them be like the others
      data: {{path: {json.dumps(path)}{media}, slice: "-{held}:"}}
"""
    learns = "[connectors, adapters]" if lora else "[connectors, language]"
    who = "adapters learn" if lora else "the language model learns"
    return f"""# Two stages: the connector learns to speak to the frozen language model, then {who} with it.
#     omnimix train train.yaml
name: {name}
recipe: recipe.yaml
output_dir: run
seed: 0
stages:
  - name: connector
    trainable: [connectors]
    optimizer: {{lr: 1.0e-3, weight_decay: 0.0}}
{rest}  - name: {"lora" if lora else "full"}
    trainable: {learns}
    optimizer: {{lr: {"2.0e-4" if lora else "2.0e-5"}, weight_decay: 0.0}}
{rest}"""


def _readme(name: str, folder: Path, data: Path, media: tuple[str, ...], sees: bool) -> str:
    base = folder.resolve()
    held = _held_out(_rows(data, base))
    picture, question = _first(data, media) if sees else (None, None)
    asked = f" --image {shlex.quote(os.path.relpath(picture, base))}" if picture else ""
    said = shlex.quote(question or "What is this?")
    file = shlex.quote(os.path.relpath(data.resolve(), base))
    held_out = f' --slice="-{held}:"' if held else ""
    for root in media:
        file += f" --media {shlex.quote(os.path.relpath(Path(root).resolve(), base))}"
    return f"""# {name}

`recipe.yaml` says what the model is made of, `train.yaml` how it learns. In this folder:

```bash
omnimix check train.yaml
omnimix train train.yaml
omnimix chat run/model{asked} --ask {said}
```

How much of it is right, {f"on the {held} rows that are held out" if held else "on the rows themselves"} (`recipe.yaml` in place of
`run/model` asks the untrained model, `--swap-pictures` what the words alone give away):

```bash
omnimix evaluate run/model --data {file}{held_out} --metric exact
```

`run/model` is whole: it opens anywhere, without the parts that it was made from. `omnimix serve run/model` answers
over HTTP.
"""


def _first(data: Path, media: tuple[str, ...]) -> tuple[Path | None, str | None]:
    """A picture and a question out of the first rows.

    Raises:
        OmnimixError: rows of pictures, none of which is there.
    """
    from omnimix.data.rows import read_rows

    source = read_rows(data, media=media or None)
    gone: Path | None = None
    for index in range(min(50, source.length or 0)):
        try:
            sample = source[index]
        except OmnimixError:
            continue
        name = next((m.data for m in sample.media("image")[:1] if isinstance(m.data, str)), None)
        asked = next((t.text().strip() for t in sample.turns if t.role == "user"), "")
        if name is not None and "\n" not in asked:
            if Path(name).is_file():
                return Path(name).resolve(), asked
            gone = gone or Path(name)
    if gone is not None:
        raise OmnimixError(
            f"none of the first pictures is there; one would be {gone}",
            where=str(data),
            hint="name the folder that their paths start from: --media FOLDER",
        )
    return None, None
