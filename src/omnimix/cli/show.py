"""`omnimix show`: a recipe as a tree, with its tokens and parameters."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from omnimix.errors import OmnimixError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.tree import Tree

    from omnimix.cli.parts import Counted
    from omnimix.compose.modality import ModalitySpec
    from omnimix.compose.recipe import Recipe


def command(
    recipe: Annotated[
        str | None, typer.Argument(help="A shipped recipe's name, a YAML file or a model folder.")
    ] = None,
    sample: Annotated[
        str | None,
        typer.Option(
            "--sample",
            metavar="[FILE.jsonl]",
            help="Print the tokens of a conversation: a drawn scene, or a file's first record.",
        ),
    ] = None,
    override: Annotated[
        list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Change a word.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print numbers as JSON.")] = False,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the recipes' JSON schema.")
    ] = False,
) -> None:
    """Show a recipe: its parts, the tokens of an item, the parameters of each part."""
    if recipe and not (schema or override or sample is not None or Path(recipe).exists()):
        from omnimix.cli import counts_written

        known = counts_written.written().get(recipe)
        if known is not None:
            _print(known["data"], lambda: grown(known["tree"]), as_json)
            return
    from omnimix.compose import recipe as recipes

    if schema:
        typer.echo(json.dumps(recipes.schema(), indent=2))
        return
    if recipe is None:
        raise OmnimixError("no recipe is named", hint=f"shipped are {', '.join(recipes.names())}")
    loaded = of_model(recipe, override or [])
    if sample is not None:
        from omnimix.cli.token_map import token_map

        wide().print(token_map(loaded, recipe, sample), soft_wrap=True)
        return
    from omnimix.cli.parts import count

    counted = count(loaded)
    _print(as_data(loaded, counted), lambda: tree(loaded, counted), as_json)


def _print(data: dict[str, Any], drawn: Callable[[], Tree], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(data, indent=2))
    else:
        wide().print(drawn())


def of_model(name: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe by name or file, or the one that a released checkpoint comes to."""
    from omnimix.checkpoints import base
    from omnimix.compose import recipe as recipes

    path = Path(name)
    # A folder that is neither ours nor a known family's is refused by what lies in it.
    foreign = path.is_dir() and not (path / "recipe.yaml").is_file()
    if base.recognise(path) is None and not foreign:
        return recipes.load(name, overrides)
    found = base.open_release(path).recipe
    return recipes.parse(found.dump(), str(name), overrides) if overrides else found


def as_data(recipe: Recipe, counted: Counted) -> dict[str, Any]:
    """The same for machines."""
    return {
        "name": recipe.name,
        "about": recipe.about,
        "tokens": {
            name: {
                "per_tile": tokens.per_tile,
                "tiles": tokens.tiles,
                "per_item": tokens.per_item,
                "examples": tokens.examples,
                "shared_by": tokens.shared,
            }
            for name, tokens in counted.tokens.items()
        },
        "parameters": {**counted.parameters, "total": counted.total},
        "problems": counted.problems,
        "recipe": recipe.dump(),
    }


def wide() -> Console:
    """A console that folds lines at the terminal's width, and late where nobody looks."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=160)


def millions(number: int) -> str:
    """A number of parameters to read: 7.24 B, 9.5 M, 640."""
    for size, letter in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:.3g} {letter}"
    return str(number)


def tree(recipe: Recipe, counted: Counted) -> Tree:
    """The recipe with its numbers."""
    from rich.markup import escape
    from rich.tree import Tree

    top = Tree(f"[bold]{escape(recipe.name)}[/]  {escape(recipe.about)}")
    for name, spec in recipe.modalities.items():
        _modality(top, name, spec, counted)
    config = recipe.language.config
    words = ", ".join(
        f"{short} {config[key]}"
        for key, short in (
            ("num_hidden_layers", "layers"),
            ("hidden_size", "width"),
            ("vocab_size", "vocabulary"),
        )
        if key in config
    )
    size = _parameters(counted, "language")
    language = top.add(f"[bold cyan]language[/]  {config.get('model_type', '')} ({words}){size}")
    if recipe.language.weights:
        language.add(f"starts from {escape(recipe.language.weights)}")
    _problem(language, counted, "language")
    if recipe.adapters:
        beside = top.add(f"[bold cyan]adapters[/] {_parameters(counted, 'adapters')}")
        for adapter in recipe.adapters:
            beside.add(f"{adapter.part}: {escape(_words(adapter))}")
        _problem(beside, counted, "adapters")
    named = recipe.tokenizer.path if recipe.tokenizer else "none named"
    limit = recipe.model_max_length or config.get("max_position_embeddings", "unknown")
    top.add(f"[bold cyan]tokenizer[/]  {escape(named)}")
    top.add(f"[bold cyan]template[/]  {escape(recipe.template.name)}, context {limit} tokens")
    top.add(f"[bold cyan]regions[/]  {_pointing(recipe)}")
    note = " (without the parts that cannot be built)" if counted.problems else ""
    top.add(f"[bold cyan]total[/]  {millions(counted.total)} parameters = {counted.total:,}{note}")
    return top


def lines(drawn: Tree) -> list[Any]:
    """A tree as data: its line, then each of its branches in the same form."""
    return [drawn.label, *map(lines, drawn.children)]


def grown(said: list[Any], on: Tree | None = None) -> Tree:
    """The tree that `lines` wrote."""
    from rich.tree import Tree

    top = Tree(said[0]) if on is None else on.add(said[0])
    for branch in said[1:]:
        grown(branch, top)
    return top


def _pointing(recipe: Recipe) -> str:
    """How regions get into the model, and how it writes them."""
    from omnimix.compose.pointing import way

    says = {
        "tokens": "tokens of their own",
        "text": "coordinates in the text",
        "marks": "numbered marks on the picture",
    }
    return f"as {says[way(recipe)]}; coordinates written as {recipe.coordinates.kind}"


def _modality(top: Tree, name: str, spec: ModalitySpec, counted: Counted) -> None:
    from rich.markup import escape

    tokens = counted.tokens.get(name)
    line = f"[bold cyan]{name}[/]  "
    node = top.add(
        line + (f"[bold green]{tokens.line()}[/] tokens" if tokens else "unknown tokens")
    )
    _problem(node, counted, name)
    if tokens:
        if tokens.inside():
            node.add(f"per tile: {tokens.inside()}")
        for size, tiles in tokens.examples.items():
            node.add(f"{size}: {tiles} tiles x {tokens.per_tile} = {tiles * tokens.per_tile}")
    limit = f", at most {spec.limit}" if spec.limit is not None else ""
    node.add(f"opens {', '.join(spec.opens.takes())}; place {spec.place}{limit}")
    if spec.steps:
        node.add("steps: " + " > ".join(escape(_words(step)) for step in spec.steps))
    for i, branch in enumerate(spec.branches):
        parent = node.add(f"branch {i}") if len(spec.branches) > 1 else node
        for j, encoder in enumerate(branch.encoders):
            size = _parameters(counted, f"{name}.branches.{i}.encoders.{j}")
            leaf = parent.add(f"encoder{size}  {escape(_words(encoder))}")
            if encoder.steps:
                leaf.add("steps: " + " > ".join(escape(_words(step)) for step in encoder.steps))
            if encoder.finish:
                leaf.add("finish: " + " > ".join(escape(_words(end)) for end in encoder.finish))
        size = _parameters(counted, f"{name}.branches.{i}.connector")
        parent.add(f"connector{size}  {escape(_words(branch.connector))}")
    if spec.arrange is not None:
        node.add(f"arrange {escape(_words(spec.arrange))}")
    if spec.frame is not None:
        node.add(f"frame: start {spec.frame.start}, end {spec.frame.end}")


def _words(spec: Any) -> str:
    """A part on one line: its kind, then the short words that differ from the default."""
    words = []
    for key, value in spec.dump().items():
        if key in ("kind", "steps", "finish"):
            continue
        if key == "config":
            value = value.get("model_type", "?")
        if isinstance(value, dict):
            value = ", ".join(f"{inner} {v}" for inner, v in value.items())
        words.append(f"{key}={value}")
    return f"{spec.kind}({', '.join(words)})" if words else str(spec.kind)


def _parameters(counted: Counted, part: str) -> str:
    return f" [yellow]{millions(counted.parameters[part])}[/]" if part in counted.parameters else ""


def _problem(node: Tree, counted: Counted, part: str) -> None:
    from rich.markup import escape

    if part in counted.problems:
        node.add(f"[red]cannot be built: {escape(counted.problems[part])}[/]")
