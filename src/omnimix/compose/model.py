"""The one model class: a recipe's modalities in front of any causal language model of transformers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    PreTrainedModel,
)

from omnimix import _transformers, versions
from omnimix.compose import adapters, modality, recipe as recipes, saving
from omnimix.compose.generating import ItemGenerationMixin
from omnimix.compose.item_batch import ItemBatch, ItemBatches
from omnimix.compose.loss import token_loss
from omnimix.compose.modality import Encoded, Modality
from omnimix.compose.model_config import OmnimixConfig
from omnimix.compose.recipe import Recipe
from omnimix.compose.running import Running
from omnimix.compose.splice import splice
from omnimix.disk import writing
from omnimix.errors import CheckpointError, OmnimixError, SpliceError
from omnimix.language import packed
from omnimix.language.forms import Form

GIVEN = (
    *("input_ids", "attention_mask", "position_ids", "inputs_embeds", "items", "item_places"),
    *("pixel_values", "mm_token_type_ids", "branches"),
)
"""Words of the forward that `run` takes."""
SAID = ("cache", "output_attentions")
"""Those that are handed on where they are given."""


class MultimodalLM(Running, ItemGenerationMixin, PreTrainedModel):  # type: ignore[misc]
    """Modalities, splice, language model. Parameter names: `image.branches.0...`, `language...`.

    Build one with `MultimodalLM.from_recipe(recipe)`; `save_pretrained` and `from_pretrained` work as in
    transformers.
    """

    config_class = OmnimixConfig
    base_model_prefix = "language"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _no_split_modules: list[str] = []

    runs_on: torch.device | None = None
    """Where it computes, if its weights rest elsewhere in between."""

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
        asked = config._attn_implementation
        super().__init__(config)
        self.recipe = config.parsed()
        self.width = int(config.get_text_config().hidden_size)
        self.modalities = list(self.recipe.modalities)
        for name, module in modality.build(self.recipe.modalities, self.width).items():
            self.add_module(name, module)
        text = config.text_config._attn_implementation or asked
        self.language: Any = self.recipe.language.build(config.text_config, text)
        # One configuration: what generation reads is what the language model runs with.
        config.text_config = self.language.config
        config._attn_implementation_internal = asked or self.recipe.language.attn_implementation
        for tower in [self.get_submodule(name) for name in self.modalities] if asked else []:
            for module in tower.modules():
                # A tower that does not know it keeps its own.
                with contextlib.suppress(ValueError, ImportError):
                    if isinstance(module, PreTrainedModel):
                        module.set_attn_implementation(asked)
        self._allowed: set[Form] = set()
        adapters.inject(self, self.recipe.adapters, self.get_output_embeddings())
        self._stands = False
        self.post_init()
        self._stands = True
        if built is not None:
            built(self)

    @classmethod
    def from_recipe(cls, recipe: Recipe) -> MultimodalLM:
        """A model with fresh weights; `omnimix.build` fills them from those that the recipe names."""
        return cls(OmnimixConfig(recipe=recipe.without_adapters())).adapt(recipe)

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
    def tokens_per_tile(self) -> dict[str, int]:  # type: ignore[override]
        """For each modality, the places one tile takes; what a `Weaver` needs."""
        return {name: self.modality(name).tokens_per_tile for name in self.modalities}

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.runs_on or super().device

    @property
    def vocab_size(self) -> int:
        """Rows of the table of embeddings."""
        return int(self.config.vocab_size)

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

    def set_output_embeddings(self, value: nn.Module) -> None:
        self.language.set_output_embeddings(value)

    def resize_token_embeddings(self, *args: Any, **words: Any) -> nn.Module:
        """As in transformers; the recipe follows, so that a saved model opens again.

        Raises:
            OmnimixError: a head that gives the first of its rows alone.
        """
        head = self.recipe.language.head
        if head is not None:
            raise OmnimixError(
                "the output head of this model has rows of its own kind (language.head), which cannot be resized",
                hint="change language.config.vocab_size in the recipe and convert the checkpoint anew",
            )
        table: nn.Module = self.language.resize_token_embeddings(*args, **words)
        language = self.recipe.language.resized(int(self.config.vocab_size))
        self._become(self.recipe.model_copy(update={"language": language}))
        return table

    def set_attn_implementation(self, attn_implementation: Any, *args: Any, **words: Any) -> None:
        """As in transformers, for the language model and every tower that knows the implementation.

        `sdpa` of the language model is ours, which knows packed batches.
        """
        super().set_attn_implementation(attn_implementation, *args, **words)
        text = self.language.config
        if text._attn_implementation == "sdpa":
            self.language.set_attn_implementation(packed.NAME)

    def _init_weights(self, module: nn.Module) -> None:
        # Parts initialise themselves when built. What a state dict does not hold has to be made again
        # after a load on the meta device, or it stays uninitialised.
        if isinstance(module, _BatchNorm):
            _transformers.restore_statistics(module)
        restore: Any = getattr(module, "init_non_persistent_buffers", None)
        if restore is not None:
            restore()

    def initialize_weights(self) -> None:
        """As in transformers, also for modalities of a loaded model: what no file filled is bare memory until then."""
        super().initialize_weights()
        for name in self.modalities if self._stands else ():
            self._fill_missing(name)

    def _fill_missing(self, name: str) -> None:
        """Give what no file filled the values that it has in a fresh model.

        Raises:
            CheckpointError: an adapter, which is no part of a fresh model.
        """
        parameters = self.modality(name).named_parameters()
        missing = {key: p for key, p in parameters if not _transformers.is_loaded(p)}
        if not missing:
            return
        with torch.device("cpu"):
            fresh = modality.build(self.recipe.modalities, self.width)[name].state_dict()
        for key, parameter in missing.items():
            value = fresh.get(key.replace(".base_layer.", "."))
            if value is None:
                raise CheckpointError(f"the weights {name}.{key} are missing")
            parameter.data.copy_(value)

    def encode(self, items: Mapping[str, ItemBatch]) -> dict[str, Encoded]:
        """What the modalities give for all items, in the recipe's order.

        Raises:
            SpliceError: more or fewer features than places were left for.
        """
        done: dict[str, Encoded] = {}
        for name in self.modalities:
            if name not in items:
                continue
            batch = items[name].to(self.device)
            source = self.recipe.modalities[name].source()
            seen: Tensor | None = None
            if source is not None:
                found = done[source].map
                assert found is not None
                seen = found[batch.on]
            done[name] = self.modality(name)(batch, seen)
            if len(done[name].tokens) != sum(batch.tokens):
                raise SpliceError(
                    f"{len(done[name].tokens)} features of {name!r} for {sum(batch.tokens)} places",
                    hint="weave the samples with the recipe of this very model",
                )
        return done

    def features(
        self, items: ItemBatches, encoded: dict[str, Encoded] | None = None
    ) -> Float[Tensor, "features width"]:
        """Of all items one after another, as `item_places` counts them.

        Args:
            encoded: what the modalities gave, where it is at hand.
        """
        if items.features is not None:
            return items.features
        tokens = [one.tokens for one in (encoded or self.encode(items)).values()]
        nothing = torch.zeros(0, self.width, device=self.device)
        found = torch.cat(tokens) if tokens else nothing
        if items.keeps:
            items.features = found
        return found

    def embed(
        self,
        input_ids: Int[Tensor, "batch tokens"],
        items: ItemBatches | None = None,
        item_places: Int[Tensor, "rows columns"] | None = None,
    ) -> Float[Tensor, "batch tokens width"]:
        """Embeddings of the text with the items in their places."""
        return self._filled(self.get_input_embeddings()(input_ids), items, item_places)

    def _filled(
        self,
        embeddings: Float[Tensor, "batch tokens width"],
        items: ItemBatches | None,
        item_places: Int[Tensor, "rows columns"] | None,
    ) -> Float[Tensor, "batch tokens width"]:
        """Embeddings with the items in their places.

        Raises:
            SpliceError: items without places, places without items, or what does not fit together.
        """
        if not items and item_places is None:
            return embeddings
        if items is None or item_places is None:
            given, missing = ("item_places", "items") if items is None else ("items", "item_places")
            raise SpliceError(
                f"{given} without {missing}",
                hint="hand on both, as the processor gave them (`model(**batch)`)",
            )
        return splice(embeddings, self.features(items), item_places)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        items: ItemBatches | None = None,
        item_places: Tensor | None = None,
        pixel_values: Tensor | None = None,
        mm_token_type_ids: Tensor | None = None,
        branches: Tensor | None = None,
        num_items_in_batch: float | Tensor | None = None,
        shift_labels: Tensor | None = None,
        loss_scale: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        skip_logits: bool = False,
        token_losses: bool = False,
        cache: Any = None,
        output_attentions: bool | None = None,
        **words: Any,
    ) -> Any:
        """Logits for every place, and the loss where labels are given.

        Args:
            input_ids: `[batch, tokens]`, any id in the holes.
            attention_mask: `[batch, tokens]`, 0 at padding.
            labels: `[batch, tokens]`, not shifted, -100 where nothing is learned.
            inputs_embeds: `[batch, tokens, width]` in place of ids; items are put into them as well. They may
                begin with learned vectors that `item_places` do not count.
            items: what fills the holes.
            item_places: `[batch, tokens]`, 0 for text, else one more than the number of the feature that
                stands there.
            pixel_values, mm_token_type_ids: other names of these two, see `omnimix.compose.pixels`.
            branches: `[1, tokens]` of a packed batch, see `Batch`.
            num_items_in_batch: what to divide the summed loss by; default the learned tokens here.
            shift_labels: for each place the label of the next, in place of `labels` (sequence parallelism).
            loss_scale: `[batch, tokens]`, what each label counts for.
            skip_logits: give the loss alone, for which the output head runs at the learned places only.
            token_losses: so too, as `loss` those of the learned places `[learned]`, in their order.
            logits_to_keep: of how many last places, or of which, there are logits; 0 for all.
            cache: what went before; in transformers 5.23 its name is `past_key_values`.
            output_attentions: whether to give the weights of attention as well, which takes longer.
            words: what else generation hands on, for the language model as it is.

        Returns:
            The language model's own output, which carries the cache under the name of the installed
            transformers; `loss` and `logits` are ours.
        """
        said = locals()
        words |= {name: said[name] for name in GIVEN}
        words |= {name: said[name] for name in SAID if said[name] is not None}
        if not isinstance(logits_to_keep, int) or logits_to_keep:
            words["logits_to_keep"] = logits_to_keep
        alone = "each" if token_losses else "mean" if skip_logits else None
        return self._output((labels, shift_labels, loss_scale), num_items_in_batch, alone, words)

    def _output(
        self, targets: Any, count: float | Tensor | None, alone: str | None, words: dict[str, Any]
    ) -> Any:
        """The output of the language model, or the loss alone: its mean, or that of each place."""
        whole = words.pop("return_dict", None)
        whole = self.config.return_dict if whole is None else whole
        if alone is not None:
            output = self.loss_alone(targets, count, alone == "each", words)
            return output if whole else output.to_tuple()
        output = self.run(self.language, **words)
        labels, shift_labels, loss_scale = targets
        if labels is not None or shift_labels is not None:
            loss = token_loss(output.logits, labels, count, shift_labels, loss_scale)
            output = type(output)(loss=loss, **output)  # made anew, so that the loss comes first
        return output if whole else output.to_tuple()

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = None) -> None:
        """Nothing, as `OmnimixConfig` says."""

    def save_pretrained(self, save_directory: Any, *args: Any, **words: Any) -> None:
        """As in transformers; the recipe is written beside the weights."""
        place = Path(save_directory)
        with writing(place):
            super().save_pretrained(save_directory, *args, **words)
            (place / "recipe.yaml").write_text(recipes.dump(saving.saved(self.recipe)))


AutoConfig.register("omnimix", OmnimixConfig, exist_ok=True)
for _auto in (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
):
    _auto.register(OmnimixConfig, MultimodalLM, exist_ok=True)
_transformers.answers_in_pipelines(OmnimixConfig.model_type, MultimodalLM.__name__)
