"""The processor: everything between a sample, a text or messages and a batch, saved beside the weights."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Mapping, Sequence as Many
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from transformers import AutoProcessor, AutoTokenizer, PreTrainedTokenizerFast

from omnimix.compose import (
    fingerprint,
    messages,
    modality,
    pixels,
    recipe as recipes,
    remote,
    saving,
)
from omnimix.compose.batch import Batch
from omnimix.compose.conversing import Conversing
from omnimix.compose.model_config import OmnimixConfig
from omnimix.compose.recipe import Recipe
from omnimix.compose.weave import Weaver
from omnimix.config import read_yaml
from omnimix.disk import writing
from omnimix.errors import CheckpointError, OmnimixError, RecipeError
from omnimix.language.fast import fast_tokenizer
from omnimix.language.tokenizer import ROOT, Tokenizer, end_tokens
from omnimix.media.files import Place, found, looking_in
from omnimix.prompts import chat_template
from omnimix.prompts.template import Template
from omnimix.types import Sample


class Processor(Conversing):
    """Weaver and tokenizer of a recipe, a processor of transformers. Cheap to pickle: holds no weights.

    Args:
        recipe: the model's.
        tokenizer: of the language model, as weaving needs it; `self.tokenizer` is transformers' form of it.
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
        self.chat_template = chat_template.typed(recipe.template)
        self.weave = Weaver(recipe, tokenizer, tokens_per_tile, context, folders)

    def with_template(self, template: Template) -> Processor:
        """The same with another style of prompts, for a stage of training."""
        return self.with_recipe(self.recipe.model_copy(update={"template": template}))

    def with_recipe(self, recipe: Recipe) -> Processor:
        """The same with other words that change neither the weights nor the number of tokens."""
        weave = self.weave
        made = type(self)(recipe, weave.tokenizer, weave.tokens_per_tile, weave.folders)
        if recipe.modalities == self.recipe.modalities:
            made.weave.features = weave.features
        return made

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The tokenizer as transformers knows it, for decoding, `stop_strings` and whoever looks for one.

        Raises:
            RecipeError: a tokenizer that has no such form.
        """
        return fast_tokenizer(self.weave.tokenizer, self.chat_template)

    @property
    def model_input_names(self) -> list[str]:
        """What a batch of texts or messages may hold for the model."""
        return ["input_ids", "attention_mask", pixels.PIXELS, pixels.PLACES, "items"]

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
        tokenizer = tokenizer or recipe.tokenizer.load([*folders, ROOT])
        looked: list[Place] = [*([files] if files else []), *folders]
        return cls(recipe, tokenizer, tokens_per_tile, looked)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, revision: str | None = None, **words: Any
    ) -> Processor:
        """From a folder that `save_pretrained` wrote, or a repository of the hub with what lies in one.

        Args:
            words: of those that transformers hands on, `cache_dir`, `token` and `local_files_only` count.

        Raises:
            CheckpointError: the folder holds no recipe.
        """
        folder = Path(pretrained_model_name_or_path)
        if not folder.exists() and not folder.is_absolute():
            known = ("cache_dir", "token", "local_files_only")
            folder = Path(
                snapshot_download(
                    str(pretrained_model_name_or_path),
                    revision=revision,
                    ignore_patterns=["*.safetensors"],
                    **{word: words[word] for word in known if words.get(word) is not None},
                )
            )
        file = folder / "recipe.yaml"
        if not file.is_file():
            raise CheckpointError(
                "no model: recipe.yaml is missing",
                where=str(folder),
                hint="name a folder that omnimix wrote (recipe.yaml and model.safetensors)",
            )
        recipe = recipes.parse(read_yaml(file), file.name)
        # A folder may be a stranger's, so nothing is read from beyond it; one's own recipe may name any file.
        places = [folder, recipes.FOLDER]
        tokenizer = recipe.tokenizer.load(places) if recipe.tokenizer else None
        made = cls.from_recipe(recipe, folder, tokenizer=tokenizer)
        fingerprint.warn_of_moved(made.weave, folder)
        return made

    def save_pretrained(self, save_directory: str | Path, **_: Any) -> None:
        """Write tokenizer, recipe and the files that its steps name into a folder.

        Beside them what transformers reads: the tokenizer in its form, where it has one, and what ends an answer,
        into the `generation_config.json` of the model that was saved there.
        """
        with writing(Path(save_directory)):
            self._save(Path(save_directory))

    def _save(self, place: Path) -> None:
        place.mkdir(parents=True, exist_ok=True)
        recipe = recipes.dump(saving.saved(self.recipe))
        (place / "recipe.yaml").write_text(recipe)
        with contextlib.suppress(RecipeError):  # a tokenizer that is of our own alone
            self.tokenizer.save_pretrained(place)
        # Ours last: transformers adds words to the file that are not the recipe's.
        name = self.weave.tokenizer.save(place)
        if self.recipe.tokenizer is not None:
            _copy(place / name, place / saving.tokenizer_name(self.recipe.tokenizer))
        remote.write(place)
        config = {"auto_map": {"AutoProcessor": remote.auto_map()["AutoProcessor"]}}
        (place / "processor_config.json").write_text(json.dumps(config, indent=2) + "\n")
        self._write_ends(place / "generation_config.json")
        with looking_in(self.weave.folders):
            for file, saved_as in saving.names(self.recipe).items():
                _copy(found(file), place / saved_as)
        (place / fingerprint.FILE).write_text(fingerprint.take(self.weave, recipe))

    def _write_ends(self, file: Path) -> None:
        """Tokens that end an answer, into the words of generation; strings that do need a tokenizer there."""
        words = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        words.pop("_from_model_config", None)
        tokenizer = self.weave.tokenizer
        ends = end_tokens(tokenizer, self.recipe.template.stop_strings)
        words |= {"eos_token_id": list(ends) or None, "pad_token_id": tokenizer.pad}
        file.write_text(json.dumps(words, indent=2, sort_keys=True) + "\n")

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = None) -> None:
        """Nothing: the file beside the weights imports this class and is not to be replaced by it."""

    def to_dict(self) -> dict[str, Any]:
        """What the processor is made of."""
        return {"recipe": self.recipe.dump()}

    def __call__(
        self,
        samples: Many[Sample] | Sample | Many[str] | str | None = None,
        open_answer: bool = False,
        *,
        text: Many[str] | str | None = None,
        images: Any = None,
        audio: Any = None,
        videos: Any = None,
        regions: Any = None,
        documents: Any = None,
        **words: Any,
    ) -> Batch:
        """Samples straight to a batch, or texts with what they are about, as transformers hands them over.

        Padding stands on the left where an answer is to be written. A text with marks (`<image>`), or without items,
        is the prompt as the model reads it, what `apply_chat_template` wrote for instance. A text beside items that
        it does not mark is a question, and the recipe's style is put around it.

        Args:
            samples: `Sample`s; texts are taken as `text`.
            open_answer: of samples, whether the model shall answer.
            images, audio, videos, regions, documents: one item, a list for all texts, or a list for each text, in
                any form that `Media` takes. Nothing is fetched.
            words: `return_tensors` (`"pt"`, or lists) with `padding`, `padding_side`, `pad_to_multiple_of`, `max_length` with `truncation` (a longer row is refused,
                nothing is cut), `add_special_tokens` (the begin token in front of a prompt), `sampling_rate`.

        Raises:
            OmnimixError: words, items or samples that cannot be used.
        """
        given = [samples] if isinstance(samples, str | Sample) else samples
        if given and all(isinstance(one, str) for one in given):
            text, given = [str(one) for one in given], None
        if given is not None:
            many = [one for one in given if isinstance(one, Sample)]
            woven = self.weave.many(many, open_answer=open_answer)
            return self.batch(woven, "left" if open_answer else "right")
        if text is None:
            raise OmnimixError("neither text nor samples", hint="give text= (and images= ...)")
        if (rate := words.pop("sampling_rate", None)) is not None and audio is not None:
            sounds = audio if isinstance(audio, list) else [audio]
            audio = [(one, rate) if hasattr(one, "shape") else one for one in sounds]
        items = {
            "image": images,
            "audio": audio,
            "video": videos,
            "document": documents,
            "region": regions,
        }
        bos, eos = self._written("bos"), self._written("eos")
        texts = [text] if isinstance(text, str) else text
        asked = messages.of_texts(texts, items, self.recipe.template, bos, eos)
        begins = words.pop("add_special_tokens", True)
        return self._batch([self._woven(one, begins) for one in asked], asked, **words)


def _copy(file: Path, to: Path) -> None:
    if not (to.exists() and to.samefile(file)):
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, to)


AutoProcessor.register(OmnimixConfig, Processor, exist_ok=True)
AutoTokenizer.register(OmnimixConfig, fast_tokenizer_class=PreTrainedTokenizerFast, exist_ok=True)
