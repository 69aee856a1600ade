"""Running the language model, or its body alone, over rows with the items in their places."""

from __future__ import annotations

import functools
from typing import Any

from torch import Tensor, nn

from omnimix import _transformers
from omnimix.compose import pixels
from omnimix.compose.body import Headless
from omnimix.compose.generating import behind_prompt
from omnimix.compose.loss import all_losses, chosen_losses, learned, meaned
from omnimix.compose.recipe import Recipe
from omnimix.encoders.base import device_dtype
from omnimix.errors import OmnimixError
from omnimix.language import forms, packed
from omnimix.language.forms import Form


class Running:
    """What lies between the words of the model's forward and those of the language model's."""

    recipe: Recipe
    language: Any
    config: Any
    vocab_size: Any
    tokens_per_tile: Any
    embed: Any
    _filled: Any
    _allowed: set[Form]
    _headed: bool | None = None

    def run(
        self,
        module: nn.Module,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        branches: Tensor | None = None,
        **words: Any,
    ) -> Any:
        """The language model, or its body alone, over what `forward` is given, with the items in their places."""
        words = pixels.own(words, self.recipe, self.tokens_per_tile)
        items, places = words.pop("items", None), words.pop("item_places", None)
        if inputs_embeds is None:
            assert input_ids is not None
            inputs_embeds = self.embed(input_ids, items, places)
        else:
            if places is not None:
                places = behind_prompt(places, inputs_embeds)
            inputs_embeds = self._filled(inputs_embeds, items, places)
        words |= {"attention_mask": attention_mask, "position_ids": position_ids}
        together = words.get("cu_seq_lens_q") is not None
        if together:
            self._pack(words, branches)
        elif position_ids is None and attention_mask is not None and attention_mask.ndim == 2:
            words |= forms.padded_words(self.language, attention_mask, inputs_embeds.shape[1])
        with packed.by_segment(together):
            output = module(
                inputs_embeds=inputs_embeds.to(device_dtype(self.language)),
                return_dict=True,
                **self._told(words),
            )
        if words.get("output_attentions") and None in (output.attentions or [None]):
            raise _no_attentions(self.language.config._attn_implementation)
        return output

    def loss_alone(
        self, targets: Any, count: float | Tensor | None, each: bool, given: dict[str, Any]
    ) -> Any:
        """The loss alone, or that of each learned place.

        Where a model's head cannot be parted from its body, logits are made for every place.
        """
        if self._headed is None:
            spec = self.recipe.language
            self._headed = forms.headed(spec.hf_config(), spec.attn_implementation)
        # Found before the body runs: on a device the host waits for the number of places.
        places, target, scale = learned(*targets)
        if self._headed:
            hidden = self.run(self.language.base_model, **given)[0]
            head = functools.partial(_transformers.headed, self.language)
            # What stands between body and output matrix (a dense layer, a norm) learns through the logits as well.
            body = {id(p) for p in self.language.base_model.parameters()}
            behind = [p for p in self.language.parameters() if id(p) not in body]
            learns = [*self.language.get_output_embeddings().parameters(), *behind]
            frozen = not any(p.requires_grad for p in learns)
            losses = chosen_losses(head, hidden, places, target, self.vocab_size, frozen)
        else:
            losses = all_losses(self.run(self.language, **given).logits, places, target)
        return _transformers.loss_output(losses if each else meaned(losses, scale, count))

    @property
    def base_model(self) -> Headless:
        """The model without its output head; `base_model_prefix` names where the language model's weights are."""
        return Headless(self)

    def _pack(self, words: dict[str, Any], branches: Tensor | None) -> None:
        """What the language model is told of samples that stand one after another.

        Raises:
            RecipeError: it would confuse them; tried once for each form.
        """
        form: Form = "packed" if branches is None else "apart"
        if form not in self._allowed:
            forms.check(self.recipe.language, form)
            self._allowed.add(form)
        if branches is not None:
            places, borders = words["position_ids"], words["cu_seq_lens_q"]
            words["seen"] = packed.distances(branches[0], places[0], borders)

    def _told(self, words: dict[str, Any]) -> dict[str, Any]:
        """Words for the language model, with what our own configuration asks of every call.

        Raises:
            OmnimixError: what the attention implementation cannot do and would leave out without a word.
        """
        for word in ("output_hidden_states", "output_attentions"):
            if words.get(word) is None and getattr(self.config, word):
                words[word] = True
        if words.get("cu_seq_lens_q") is not None:
            # Beside a cache transformers does not look for samples that stand one after another.
            words.setdefault("use_cache", False)
        attention = self.language.config._attn_implementation
        if words.get("output_attentions") and (
            attention not in ("eager", packed.NAME)
            or (attention == packed.NAME and words.get("cu_seq_lens_q") is not None)
        ):
            raise _no_attentions(attention)
        if words.get("seen") is not None and attention != packed.NAME:
            raise OmnimixError(
                f"the attention implementation {attention!r} knows no rounds that do not see one another",
                hint="load the model with attn_implementation='sdpa'",
            )
        return words


def _no_attentions(attention: str) -> OmnimixError:
    return OmnimixError(
        f"the attention implementation {attention!r} gives no attentions here",
        hint="load the model with attn_implementation='eager'",
    )
