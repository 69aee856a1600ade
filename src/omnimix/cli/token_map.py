"""A conversation as the model sees it: text, learned text in colour, and the holes of its items."""

from __future__ import annotations

import json
from pathlib import Path

from rich.text import Text

from omnimix.compose.processor import Processor
from omnimix.compose.recipe import Recipe
from omnimix.compose.sequence import Sequence
from omnimix.compose.spans import spans
from omnimix.data.opened import ListedRows
from omnimix.data.rows import RowSource, read_rows
from omnimix.errors import SampleError
from omnimix.registry import DATASETS
from omnimix.types import Sample


def token_map(recipe: Recipe, name: str, source: str) -> Text:
    """The token map of a conversation.

    Args:
        recipe: how it is woven.
        name: what the recipe was called, a folder perhaps, where its tokenizer lies.
        source: a dataset that needs no words (`scenes`), or a file whose first record is taken.

    Raises:
        RecipeError: the recipe names no tokenizer.
        SampleError: a file that cannot be read, or a conversation that does not fit the recipe.
    """
    place = Path(name)
    folder = place if place.is_dir() else place.parent
    processor = Processor.from_recipe(recipe, folder)
    # A dataset that needs no words of its own goes by its name alone.
    sample = example(source) if source in DATASETS else record(Path(source))
    asked = bool(sample.turns) and sample.turns[-1].role == "user"
    return drawn(processor, processor.weave(sample, open_answer=asked))


def example(dataset: str) -> Sample:
    """The first sample of a dataset as its defaults give it."""
    found: Sample = DATASETS.load(dataset).model_validate({"kind": dataset}).open(Path())[0]
    return found


def record(path: Path) -> Sample:
    """The first row of a file of any known format, or the one record of a JSON file over many lines."""
    try:
        whole = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        whole = None  # many records, or no file at all: the dataset says which
    if not isinstance(whole, dict):
        return read_rows(path)[0]
    try:
        return RowSource(ListedRows([whole], path.parent, path.name))[0]
    except SampleError as error:
        raise SampleError(error.what, where=str(path), hint=error.hint) from None


def drawn(processor: Processor, sequence: Sequence) -> Text:
    """Text in the terminal's own colour, learned text bold green, holes by name and size."""
    styles = {"learned": "bold green", "item": "bold magenta", "text": ""}
    result = Text()
    for span in spans(processor, sequence):
        result.append(span.text.replace("\n", "⏎\n"), style=styles[span.kind])
    share = f"\n{len(sequence)} tokens, {sequence.targets} of them learned"
    if processor.weave.context is not None:
        share += f", context {processor.weave.context}"
    result.append(share, style="dim")
    return result
