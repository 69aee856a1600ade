"""Generation: how places travel with their rows through the ways of transformers' `generate`.

Rows are repeated, cut and reordered there as any tensor of the rows' shape is. What is left to do here: the
places of the tokens that a step runs, items encoded once in a call, and what cannot be right refused.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import GenerationMixin

from omnimix.compose.item_batch import ItemBatches
from omnimix.errors import OmnimixError, SpliceError


class ItemGenerationMixin(GenerationMixin):  # type: ignore[misc]
    """What a model adds to `generate` so that items stay with their rows."""

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        next_sequence_length: int | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        is_first_iteration: bool | None = False,
        items: ItemBatches | None = None,
        item_places: Tensor | None = None,
        past_key_values: Any = None,
        cache: Any = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """As in transformers, with the places of the tokens that this step runs.

        Which name the cache has depends on the installed transformers, and `generate` refuses words that
        it reads in no signature: both stand in this one, and `kwargs` is a name that it looks for.

        Raises:
            OmnimixError: embeddings whose prefill is to be cut in chunks, which transformers cannot.
        """
        caches = {"past_key_values": past_key_values, "cache": cache}
        ready: dict[str, Any] = super().prepare_inputs_for_generation(
            input_ids,
            next_sequence_length=next_sequence_length,
            attention_mask=attention_mask,
            inputs_embeds=inputs_embeds,
            is_first_iteration=is_first_iteration,
            **{name: one for name, one in caches.items() if one is not None},
            **kwargs,
        )
        tokens: Tensor = next(
            ready[name] for name in ("inputs_embeds", "input_ids") if ready.get(name) is not None
        )
        positions = kwargs.get("position_ids")
        if positions is not None and positions.shape[-1] < tokens.shape[1]:
            raise OmnimixError(
                "inputs_embeds cannot be run in chunks",
                hint="leave out prefill_chunk_size, or give input_ids with items and item_places",
            )
        if items is None or item_places is None:
            return ready | {"items": items, "item_places": item_places}
        held = next((one for one in caches.values() if one is not None), None)
        here = self._places_of_step(items, item_places, held, tokens.shape[1], is_first_iteration)
        return ready if here is None else ready | {"items": items, "item_places": here}

    def _places_of_step(
        self, items: ItemBatches, places: Tensor, cache: Any, run: int, first: bool | None
    ) -> Tensor | None:
        """The places of the tokens that a step runs; None where all of them are new, which are text.

        Args:
            places: `[batch, prompt]`, or those of the tokens alone that go on from a cache.
            cache: what the step goes on from.
            run: how many tokens it runs.
            first: whether it is the first step of its call.
        """
        if items.passed:
            return None
        # Read in the first steps alone: a static cache counts on its device, which the host would wait for.
        past = 0 if cache is None else int(cache.get_seq_length())
        alone = places.shape[1] == run and (first or not past)
        items.passed = (
            items.keeps and cache is not None and (alone or past + run >= places.shape[1])
        )
        if past >= places.shape[1] and not alone:
            return None
        if items.keeps:
            self.features(items)
        if alone:
            return places
        longer = max(0, past + run - places.shape[1])
        return functional.pad(places, (0, longer))[:, past : past + run]

    def _expand_inputs_for_generation(
        self,
        expand_size: int = 1,
        is_encoder_decoder: bool = False,
        input_ids: Tensor | None = None,
        **model_kwargs: Any,
    ) -> tuple[Tensor, dict[str, Any]]:
        """As in transformers. Here a call of `generate` has all its words, so here they are looked at.

        Raises:
            SpliceError: items without places, or places of other rows.
        """
        items, places = model_kwargs.get("items"), model_kwargs.get("item_places")
        if items is not None and not isinstance(items, ItemBatches):
            raise SpliceError(
                f"items are a {type(items).__name__}, not what the processor gave for the whole batch",
                hint="hand all samples to one call of the processor; in a pipeline leave batch_size out",
            )
        if items and places is None:
            raise SpliceError(
                "items without item_places",
                hint="hand on both, as the processor gave them (`generate(**batch)`)",
            )
        if places is not None:
            embeds, mask = model_kwargs.get("inputs_embeds"), model_kwargs.get("attention_mask")
            rows = [one for one in (input_ids, embeds, mask) if one is not None]
            fits = {tuple(one.shape[:2]) for one in rows}
            # Tokens behind those that a cache holds are new ones.
            goes_on = any(
                model_kwargs.get(name) is not None for name in ("cache", "past_key_values")
            )
            if goes_on and rows[0].shape[1] > places.shape[1]:
                fits.add((len(rows[0]), places.shape[1]))
            if tuple(places.shape) not in fits:
                raise SpliceError(
                    f"item_places are {list(places.shape)}, the tokens {list(rows[0].shape[:2])}",
                    hint="cut, repeat and pad item_places (with 0) as input_ids are",
                )
        if items is not None:
            # Prefill in chunks and steps without a cache run the prompt again and again.
            model_kwargs["items"] = items.keeping()
        found: tuple[Tensor, dict[str, Any]] = super()._expand_inputs_for_generation(
            expand_size=expand_size,
            is_encoder_decoder=is_encoder_decoder,
            input_ids=input_ids,
            **model_kwargs,
        )
        return found

    def _prepare_attention_mask_for_generation(
        self, inputs_tensor: Tensor, generation_config: Any, model_kwargs: dict[str, Any]
    ) -> Tensor:
        """As in transformers, where no mask is given: padding is told by its id, which holes have too."""
        mask: Tensor = super()._prepare_attention_mask_for_generation(
            inputs_tensor, generation_config, model_kwargs
        )
        places = model_kwargs.get("item_places")
        if places is None or places.shape != mask.shape:
            return mask
        return mask.masked_fill(places > 0, 1)

    def heal_tokens(self, *_: Any, **__: Any) -> Tensor:
        """Refused: it writes the prompt anew from its text, in which holes are lost.

        Raises:
            OmnimixError: always.
        """
        raise OmnimixError(
            "token_healing writes the prompt anew from its text, in which the places of items are lost",
            hint="leave out token_healing",
        )

    def init_continuous_batching(self, *_: Any, **__: Any) -> Any:
        """Refused: continuous batching takes ids alone, and would answer without the items.

        Raises:
            OmnimixError: always.
        """
        raise OmnimixError(
            "continuous batching takes ids alone, without the items of a prompt",
            hint="call generate with a batch",
        )


def behind_prompt(places: Tensor, embeddings: Tensor) -> Tensor:
    """Places for embeddings that begin with learned vectors, as prompt tuning puts them there.

    Args:
        places: `[batch, tokens]`.
        embeddings: `[batch, vectors + tokens, width]`.

    Raises:
        SpliceError: what stands in the places then is no hole, so the vectors stand elsewhere.
    """
    vectors = embeddings.shape[1] - places.shape[1]
    if vectors <= 0 or len(places) != len(embeddings):
        return places
    moved = functional.pad(places, (vectors, 0))
    holes = embeddings[moved > 0]
    # All holes were embedded from one id; text is not.
    if len(holes) and not torch.equal(holes, holes[:1].expand_as(holes)):
        raise SpliceError(
            f"inputs_embeds are {vectors} longer than item_places, and not by vectors in front",
            hint="pad item_places with 0 where vectors were put in",
        )
    return moved
