"""The processor: everything between a sample and a batch, saved beside the weights."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence as Many
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoProcessor

from omnimix.compose import modality, recipe as recipes
from omnimix.compose.batch import Batch, collate
from omnimix.compose.model import OmnimixConfig
from omnimix.compose.recipe import Recipe
from omnimix.compose.sequence import Sequence
from omnimix.compose.weave import Weaver
from omnimix.errors import CheckpointError, RecipeError
from omnimix.language.tokenizer import Tokenizer
from omnimix.media.files import Place, found, looking_in
from omnimix.prompts.template import Template
from omnimix.types import Sample


class Processor:
    """Weaver and tokenizer of a recipe. Cheap to pickle: holds no weights.

    Args:
        recipe: the model's.
        tokenizer: of the language model.
        tokens_per_tile: of the built model; counted on the meta device where left out.
        folders: where files lie that steps name, such as the tokenizer of an encoder of texts.
    """

    def __init__(
        self,
        recipe: Recipe,
        tokenizer: Tokenizer,
        tokens_per_tile: dict[str, int] | None = None,
        folders: Many[Place] = (),
    ) -> None:
        config = recipe.language.hf_config().get_text_config()
        if tokenizer.size > config.vocab_size:
            raise RecipeError(
                f"the tokenizer has {tokenizer.size} tokens, the language model {config.vocab_size}",
                where="language.config.vocab_size",
                hint="make vocab_size at least as large as the tokenizer",
            )
        if tokens_per_tile is None:
            with torch.device("meta"):
                parts = modality.build(recipe.modalities, int(config.hidden_size))
            tokens_per_tile = {name: part.tokens_per_tile for name, part in parts.items()}
        context = recipe.model_max_length or getattr(config, "max_position_embeddings", None)
        self.recipe = recipe
        self.tokenizer = tokenizer
        self.weave = Weaver(recipe, tokenizer, tokens_per_tile, context, folders)

    def with_template(self, template: Template) -> Processor:
        """The same with another style of prompts, for a stage of training."""
        return self.with_recipe(self.recipe.model_copy(update={"template": template}))

    def with_recipe(self, recipe: Recipe) -> Processor:
        """The same with other words that change neither the weights nor the number of tokens."""
        weave = self.weave
        return type(self)(recipe, self.tokenizer, weave.tokens_per_tile, weave.folders)

    @classmethod
    def from_recipe(
        cls,
        recipe: Recipe,
        folder: str | Path | None = None,
        files: Mapping[str, Path] | None = None,
        tokens_per_tile: dict[str, int] | None = None,
        tokenizer: Tokenizer | None = None,
    ) -> Processor:
        """With the tokenizer that the recipe names, found in `folder` or beside the shipped recipes.

        Args:
            files: where files lie that steps name, when not under these names in the folder.
            tokens_per_tile: of the built model, where there is one.
            tokenizer: the one that the recipe names, where it was loaded already.

        Raises:
            RecipeError: the recipe names no tokenizer, or it is not there.
        """
        if recipe.tokenizer is None:
            raise RecipeError(
                f"the recipe {recipe.name!r} names no tokenizer",
                where="tokenizer",
                hint="add tokenizer: {kind: fast, path: tokenizer.json}",
            )
        folders = [*([Path(folder)] if folder is not None else []), recipes.FOLDER]
        tokenizer = tokenizer or recipe.tokenizer.load([*folders, Path("/")])
        looked: list[Place] = [*([files] if files else []), *folders]
        return cls(recipe, tokenizer, tokens_per_tile, looked)

    @classmethod
    def from_pretrained(cls, folder: str | Path, **_: Any) -> Processor:
        """From a folder that `save_pretrained` wrote.

        Raises:
            CheckpointError: the folder holds no recipe.
        """
        file = Path(folder) / "recipe.yaml"
        if not file.is_file():
            raise CheckpointError(
                "no model: recipe.yaml is missing",
                where=str(folder),
                hint="name a folder that omnimix wrote (recipe.yaml and model.safetensors)",
            )
        return cls.from_recipe(recipes.load(file), folder)

    def save_pretrained(self, folder: str | Path, **_: Any) -> None:
        """Write tokenizer, recipe and the files that its steps name into a folder."""
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        (place / "recipe.yaml").write_text(recipes.dump(self.recipe))
        name = self.tokenizer.save(place)
        if self.recipe.tokenizer is not None and self.recipe.tokenizer.path != name:
            (place / name).rename(place / Path(self.recipe.tokenizer.path).name)
        with looking_in(self.weave.folders):
            for file in self.recipe.files():
                source = found(file)
                if not (place / file).is_file():
                    (place / file).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(source, place / file)

    def batch(
        self,
        sequences: Many[Sequence],
        side: Literal["left", "right"] = "right",
        pack: bool = False,
        multiple: int = 1,
    ) -> Batch:
        """Collate woven samples."""
        return collate(sequences, self.recipe, self.tokenizer.pad, side, pack, multiple)

    def __call__(self, samples: Many[Sample] | Sample, open_answer: bool = False) -> Batch:
        """Samples straight to a batch; padded on the left where an answer is to be written."""
        many = [samples] if isinstance(samples, Sample) else samples
        woven = self.weave.many(many, open_answer=open_answer)
        return self.batch(woven, "left" if open_answer else "right")


AutoProcessor.register(OmnimixConfig, Processor, exist_ok=True)
