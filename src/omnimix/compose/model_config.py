"""The recipe as a transformers configuration, so that hub tools know the model."""

from __future__ import annotations

from copy import copy
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from omnimix.compose import recipe as recipes, remote, saving
from omnimix.compose.recipe import Recipe
from omnimix.errors import CheckpointError

_SIZES = frozenset(
    {
        "head_dim",
        "hidden_size",
        "intermediate_size",
        "max_position_embeddings",
        "num_attention_heads",
        "num_hidden_layers",
        "num_key_value_heads",
        "vocab_size",
    }
)
"""Words of the language model that tools read at the top."""


class OmnimixConfig(PreTrainedConfig):  # type: ignore[misc]
    """The recipe, and the language model's configuration as transformers completes it.

    Attributes:
        recipe: the recipe's words; what the model is made of.
        modality_order: names of the modalities in order.
        text_config: the language model's own configuration, the very one that it runs with. It is written for
            tools to read, and made from the recipe when it is read back.
    """

    model_type = "omnimix"
    sub_configs = {"text_config": AutoConfig}

    def __init__(
        self,
        recipe: dict[str, Any] | Recipe | None = None,
        modality_order: list[str] | None = None,
        text_config: dict[str, Any] | None = None,
        **words: Any,
    ) -> None:
        self._checked = recipe if isinstance(recipe, Recipe) else None
        self.recipe = (
            recipe.dump(defaults=True) if isinstance(recipe, Recipe) else dict(recipe or {})
        )
        # transformers sorts all words when it writes them, and the order of the modalities has a meaning.
        senses = self.recipe.get("modalities", {})
        self.modality_order = list(modality_order or senses)
        if senses and set(self.modality_order) == set(senses):
            self.recipe["modalities"] = {name: senses[name] for name in self.modality_order}
        self.text_config: Any = None
        if recipe:
            self.text_config = text = self.parsed().language.hf_config()
            _check(text_config or {}, self.parsed().language.config)
            for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
                words.setdefault(name, getattr(text, name, None))
            words.setdefault("tie_word_embeddings", getattr(text, "tie_word_embeddings", False))
        words["auto_map"] = remote.auto_map()
        super().__init__(**words)

    def __getattr__(self, name: str) -> Any:
        if name in _SIZES:
            return getattr(self.get_text_config(), name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def parsed(self) -> Recipe:
        """The recipe, checked once."""
        if self._checked is None:
            self._checked = recipes.parse(self.recipe, "config.json: recipe")
        return self._checked

    def become(self, recipe: Recipe) -> None:
        """Take another recipe of the same language model."""
        self._checked, self.recipe = recipe, recipe.dump(defaults=True)

    def to_dict(self) -> dict[str, Any]:
        words: dict[str, Any] = super().to_dict()
        words.pop("_checked", None)
        return words

    def save_pretrained(self, save_directory: Any, *args: Any, **words: Any) -> None:
        """As in transformers, with the file that its `auto_map` names; the recipe names files of the folder."""
        whole = copy(self)
        if self.recipe:
            whole.become(saving.saved(self.parsed()))
        super(OmnimixConfig, whole).save_pretrained(save_directory, *args, **words)
        remote.write(Path(save_directory))

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = None) -> None:
        """Nothing: the file beside the weights imports this class and is not to be replaced by it."""

    def get_text_config(self, *_: Any, **__: Any) -> Any:
        """The language model's configuration, which generation asks for cache sizes: always the same object."""
        return self if self.text_config is None else self.text_config.get_text_config()


def _check(written: dict[str, Any], words: dict[str, Any]) -> None:
    """Refuse a copy of the language model's configuration that says something else than the recipe.

    Raises:
        CheckpointError: names the first such word.
    """
    for word, value in words.items():
        # Ids of special tokens are settled by tokenizers and trainers.
        if word not in written or word.endswith("_token_id") or isinstance(value, dict):
            continue
        if written[word] != value:
            raise CheckpointError(
                f"{word} is {written[word]!r}, and {value!r} in recipe.language.config",
                where="config.json: text_config",
                hint="the recipe counts; change it there (and in recipe.yaml)",
            )
