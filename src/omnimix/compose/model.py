"""The one model class: a recipe's modalities in front of any causal language model of transformers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    GenerationMixin,
    PreTrainedConfig,
    PreTrainedModel,
)

from omnimix import _transformers, versions
from omnimix.compose import adapters, modality, recipe as recipes
from omnimix.compose.modality import Encoded, ItemBatch, Modality
from omnimix.compose.recipe import Recipe
from omnimix.compose.sequence import IGNORE
from omnimix.compose.splice import splice
from omnimix.encoders.base import device_dtype
from omnimix.language import forms, packed
from omnimix.language.forms import Form


class OmnimixConfig(PreTrainedConfig):  # type: ignore[misc]
    """The recipe as a transformers configuration, so that hub tools know the model."""

    model_type = "omnimix"

    def __init__(
        self,
        recipe: dict[str, Any] | Recipe | None = None,
        modality_order: list[str] | None = None,
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
        if recipe:
            text = self.parsed().language.hf_config()
            for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
                words.setdefault(name, getattr(text, name, None))
            words.setdefault("tie_word_embeddings", getattr(text, "tie_word_embeddings", False))
        super().__init__(**words)

    def parsed(self) -> Recipe:
        """The recipe, checked once."""
        if self._checked is None:
            self._checked = recipes.parse(self.recipe, "config.json: recipe")
        return self._checked

    def become(self, recipe: Recipe) -> None:
        """Take another recipe."""
        self._checked, self.recipe = recipe, recipe.dump(defaults=True)

    def to_dict(self) -> dict[str, Any]:
        words: dict[str, Any] = super().to_dict()
        words.pop("_checked", None)
        return words

    def get_text_config(self, *_: Any, **__: Any) -> Any:
        """The language model's configuration, which generation asks for cache sizes."""
        return self.parsed().language.hf_config() if self.recipe else self


class MultimodalLM(PreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """Modalities, splice, language model. Parameter names: `image.branches.0...`, `language...`.

    Build one with `MultimodalLM.from_recipe(recipe)`; `save_pretrained` and `from_pretrained` work as in
    transformers.
    """

    config_class = OmnimixConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _no_split_modules: list[str] = []

    def __init__(
        self, config: OmnimixConfig, built: Callable[[MultimodalLM], None] | None = None
    ) -> None:
        """Build the modules.

        Args:
            config: carries the recipe.
            built: called with the model before anything fills it; `from_pretrained` hands it on, so that a
                loader may look at the very skeleton that transformers then fills.
        """
        versions.warn_of_untried()
        super().__init__(config)
        self.recipe = config.parsed()
        language_config = self.recipe.language.hf_config()
        width = int(language_config.get_text_config().hidden_size)
        self.modalities = list(self.recipe.modalities)
        for name, module in modality.build(self.recipe.modalities, width).items():
            self.add_module(name, module)
        self.language: Any = self.recipe.language.build()
        self._allowed: set[Form] = set()
        adapters.inject(self, self.recipe.adapters, self.get_output_embeddings())
        self.post_init()
        if built is not None:
            built(self)

    @classmethod
    def from_recipe(cls, recipe: Recipe, start: bool = False) -> MultimodalLM:
        """A model with fresh weights (and the language model's starting weights where asked)."""
        model = cls(OmnimixConfig(recipe=recipe.without_adapters()))
        if start:
            recipe.language.start(model.language)
        return model.adapt(recipe)

    @classmethod
    def on_meta(cls, recipe: Recipe) -> MultimodalLM:
        """The model without memory, to count tokens and parameters."""
        with torch.device("meta"):
            return cls(OmnimixConfig(recipe=recipe))

    def adapt(self, recipe: Recipe) -> MultimodalLM:
        """Give a model without adapters those of a recipe; its weights stay, so do its answers."""
        adapters.inject(self, recipe.adapters, self.get_output_embeddings())
        self._become(recipe)
        return self

    def merge(self) -> MultimodalLM:
        """Work the adapters into the weights: the same answers, from the recipe without adapters.

        Raises:
            OmnimixError: quantized weights, which cannot take it up.
        """
        adapters.merge(self)
        self._become(self.recipe.without_adapters())
        return self

    def _become(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.config.become(recipe)

    def modality(self, name: str) -> Modality:
        """The modules of one modality."""
        found = getattr(self, name)
        assert isinstance(found, Modality)
        return found

    @property
    def tokens_per_tile(self) -> dict[str, int]:
        """For each modality, the places one tile takes; what a `Weaver` needs."""
        return {name: self.modality(name).tokens_per_tile for name in self.modalities}

    @property
    def context(self) -> int | None:
        """Most tokens of one sequence."""
        limit = getattr(self.language.config, "max_position_embeddings", None)
        return self.recipe.model_max_length or limit

    def get_input_embeddings(self) -> nn.Module:
        found: nn.Module = self.language.get_input_embeddings()
        return found

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module | None:
        found: nn.Module | None = self.language.get_output_embeddings()
        return found

    def _init_weights(self, module: nn.Module) -> None:
        # Parts initialise themselves when built. What a state dict does not hold has to be made again
        # after a load on the meta device, or it stays uninitialised.
        restore: Any = getattr(module, "init_non_persistent_buffers", None)
        if restore is not None:
            restore()

    def encode(self, items: dict[str, ItemBatch]) -> dict[str, Encoded]:
        """Features of all items, modality by modality in the recipe's order."""
        done: dict[str, Encoded] = {}
        for name in self.modalities:
            if name not in items:
                continue
            batch = items[name]
            source = self.recipe.modalities[name].source()
            seen: Tensor | None = None
            if source is not None:
                found = done[source].map
                assert found is not None
                seen = found[batch.on]
            done[name] = self.modality(name)(batch, seen)
        return done

    def embed(
        self, input_ids: Int[Tensor, "batch tokens"], items: dict[str, ItemBatch] | None = None
    ) -> Float[Tensor, "batch tokens width"]:
        """Embeddings of the text with the items in their places."""
        return self.fill(input_ids, self.encode(items or {}), items or {})

    def fill(
        self,
        input_ids: Int[Tensor, "batch tokens"],
        encoded: dict[str, Encoded],
        items: dict[str, ItemBatch],
    ) -> Float[Tensor, "batch tokens width"]:
        """The same with items that are encoded already."""
        table: nn.Module = self.get_input_embeddings()
        embeddings: Tensor = table(input_ids)
        for name, found in encoded.items():
            embeddings = splice(embeddings, found.tokens, items[name].index, name)
        return embeddings

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        items: dict[str, ItemBatch] | None = None,
        num_items_in_batch: int | Tensor | None = None,
        **words: Any,
    ) -> Any:
        """Logits for every place, and the loss where labels are given.

        Prefill is this same forward; generation only loops over it.

        Args:
            input_ids: `[batch, tokens]`, any id in the holes.
            attention_mask: `[batch, tokens]`, 0 at padding.
            labels: `[batch, tokens]`, not shifted, -100 where nothing is learned.
            items: what fills the holes.
            num_items_in_batch: what to divide the summed loss by; default the learned tokens here.
            words: what else generation hands on (the cache among it), for the language model as it is.

        Returns:
            The language model's own output, which carries the cache under the name of the installed
            transformers; `loss` and `logits` are ours.
        """
        if inputs_embeds is None:
            assert input_ids is not None
            inputs_embeds = self.embed(input_ids, items)
        words |= {"attention_mask": attention_mask, "position_ids": position_ids}
        if "cu_seq_lens_q" in words:
            self._allow("apart" if "seen" in words else "packed")
        elif position_ids is None and attention_mask is not None and attention_mask.ndim == 2:
            words |= forms.padded_words(self.language, attention_mask, inputs_embeds.shape[1])
        with packed.by_segment("cu_seq_lens_q" in words):
            output = self.language(
                inputs_embeds=inputs_embeds.to(device_dtype(self.language)), **words
            )
        if labels is None:
            return output
        loss = token_loss(output.logits, labels, num_items_in_batch)
        return type(output)(loss=loss, **output)  # made anew, so that the loss comes first

    def _allow(self, form: Form) -> None:
        """Refuse, once, samples together in a form that the language model would confuse."""
        if form not in self._allowed:
            forms.check(self.recipe.language, form)
            self._allowed.add(form)

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        items: dict[str, ItemBatch] | None = None,
        past_key_values: Any = None,
        cache: Any = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Items enter with the prompt alone; later steps carry the new tokens and the cache.

        Which name the cache has depends on the installed transformers, and `generate` refuses words that
        it reads in no signature: both stand in this one, and `kwargs` is a name that it looks for.
        """
        caches = {"past_key_values": past_key_values, "cache": cache}
        ready: dict[str, Any] = super().prepare_inputs_for_generation(
            input_ids, **{name: one for name, one in caches.items() if one is not None}, **kwargs
        )
        ready["items"] = items if _transformers.run_whole(input_ids, ready) else None
        return ready

    def save_pretrained(self, save_directory: Any, *args: Any, **words: Any) -> None:
        """As in transformers; the recipe is written beside the weights."""
        super().save_pretrained(save_directory, *args, **words)
        (Path(save_directory) / "recipe.yaml").write_text(recipes.dump(self.recipe))


def token_loss(
    logits: Float[Tensor, "batch tokens vocab"],
    labels: Int[Tensor, "batch tokens"],
    count: int | Tensor | None = None,
) -> Float[Tensor, ""]:
    """Cross entropy of each next token, summed over the learned ones and divided by their number.

    Args:
        count: the number to divide by, where the batch is one part of a larger one.
    """
    flat = logits[:, :-1].flatten(0, 1).float()
    target = labels[:, 1:].flatten().to(flat.device)
    total = functional.cross_entropy(flat, target, ignore_index=IGNORE, reduction="sum")
    if count is None:
        count = (target != IGNORE).sum().clamp(min=1)
    return total / count


AutoConfig.register("omnimix", OmnimixConfig, exist_ok=True)
AutoModel.register(OmnimixConfig, MultimodalLM, exist_ok=True)
AutoModelForCausalLM.register(OmnimixConfig, MultimodalLM, exist_ok=True)
