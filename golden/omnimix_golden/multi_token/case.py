"""A golden case of multi_token: its checkpoint, its requests and rows, and the trainer's names and ids."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from omnimix.checkpoints import reading
from omnimix.checkpoints.base import Parts, Release
from omnimix.checkpoints.tables import write as written
from omnimix.compose.modality import Branch, Modality
from omnimix.compose.model import MultimodalLM
from omnimix.compose.processor import Processor
from omnimix.compose.sequence import Item, Sequence
from omnimix.data.roots import Roots
from omnimix.errors import CheckpointError
from omnimix.families.multi_token import names as tables
from omnimix.families.multi_token.folder import MultiToken, Output
from omnimix.families.multi_token.placeholders import conversation, published
from omnimix.families.multi_token.records import placed_items
from omnimix.families.multi_token.senses import SENSES
from omnimix.media.sound_steps import ClapMel
from omnimix.types import Media, Sample
from omnimix_golden.case import Case
from omnimix_golden.multi_token import choices
from omnimix_golden.parts import parts_of
from omnimix_golden.run import CaseReading

PREFIX = "base_model.model.model."


def token_index(token: str) -> int:
    """The id that the reference gives to a placeholder: minus a hash of its characters."""
    total: int = sum(ord(letter) ** i for i, letter in enumerate(token))
    return -(total % 10000)


class MultiTokenCase(CaseReading):
    """What all sections of a case need."""

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        self._loaded: dict[str, tuple[MultimodalLM, Processor]] = {}

    @cached_property
    def layout(self) -> Output:
        """The case's checkpoint."""
        layout = MultiToken().recognise(self.case.folder / "checkpoint")
        if layout is None:
            raise CheckpointError("the case holds no checkpoint", where=str(self.case.folder))
        return layout

    def release(self, adapters: str = "merge") -> Release:
        """The checkpoint with its adapter merged, kept or left out."""
        family = MultiToken()
        parts = parts_of(self.case.folder, self.case.facts)
        words = {**parts.words, "adapters": adapters}
        return family.open(
            self.layout, Parts({**family.parts(self.layout).places, **parts.places}, words)
        )

    def loaded(self, adapters: str = "merge") -> tuple[MultimodalLM, Processor]:
        """Model and processor; the same ones every time."""
        if adapters not in self._loaded:
            model, processor, report = reading.load(self.release(adapters))
            if adapters == "merge":
                self.tell(report)
            self._loaded[adapters] = model, processor
        return self._loaded[adapters]

    def tolerance(self, name: str) -> float:
        """The tolerance that the case states for a stage.

        Raises:
            CheckpointError: it states none.
        """
        stated = self.case.facts.get("tolerance_absolute") or {}
        if not isinstance(stated.get(name), int | float):
            raise CheckpointError(
                f"case.json states no tolerance for {name!r}",
                where=str(self.case.folder / "case.json"),
            )
        return float(stated[name])

    # --- names ---

    @cached_property
    def names(self) -> dict[str, str]:
        """The reference's name of each modality to ours, in the order of the checkpoint."""
        config = self.layout.config
        return {name: SENSES[name].name for name in config["modalities"]}

    def foreign(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What learns (weights, gradients) under the names of the trainer."""
        table = tables.projector_table(PREFIX, self.names) + tables.adapter_table("default.")
        plan = table.writing(tensors)
        if plan.unknown:
            raise CheckpointError(f"the trainer has no name for {plan.unknown[0]}")
        return written(plan, tensors)

    # --- conversations ---

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """The training rows of the case."""
        path = self.inputs / "rows.json"
        try:
            found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"cannot be read ({error})", where=str(path)) from None
        return found

    def sample(self, body: Mapping[str, Any], name: str, surplus: Any = "ignore") -> Sample:
        """The conversation of a request or row, its items in their places, drawn as the original drew them."""
        ours = list(self.loaded()[1].recipe.modalities)
        lists = placed_items(body, ours, Roots(self.inputs), name)
        for modality in choices.SPEAKS:
            key = published(modality).key
            if lists.get(key):
                lists[key] = self._drawn(modality, lists[key], body, name)
        return conversation(body.get("messages"), lists, ours, name, surplus)

    def _drawn(self, ours: str, items: list[Any], body: Mapping[str, Any], name: str) -> list[Any]:
        """Items of a video or sound with what the original drew for each, as far as the case tells."""
        theirs = next(theirs for theirs, own in self.names.items() if own == ours)
        told = self._told(body, name)
        value = choices.listed(self.case, ours, (theirs, published(ours).key, ours), *told)
        done = []
        for number, item in enumerate(items):
            own = choices.of_item(value, number, item.label)
            data = self._chosen(ours, item.data, own)
            if data is item.data:
                data = self._seen(ours, theirs, item.data, number, told[1])
            done.append(replace(item, data=data))
        return done

    def _told(
        self, body: Mapping[str, Any], name: str
    ) -> tuple[list[Mapping[str, Any]], list[str]]:
        """Where a case may speak of a request or row: tables about it, and names of it."""
        asked = self.request["requests"]
        for i, row in enumerate(asked):
            if row["body"] is body or row["name"] == name.removeprefix("ok: "):
                return [self.case.facts["requests"][i], row], [f"req{i}", row["name"], str(i)]
        number = name.removeprefix("row ")
        return [body], [f"train.{number}", name, f"row{number}", number]

    def _chosen(self, ours: str, data: Any, own: Any) -> Any:
        """An item with what is listed for it; the same where it is nothing that can be meant."""
        word = choices.SPEAKS[ours][0]
        spec = self.loaded()[1].recipe.modalities[ours]
        stated = (
            choices.window(own, spec.opens.num_frames) if word == "frames" else choices.crops(own)  # type: ignore[attr-defined]
        )
        return {"path": data, word: stated} if stated and isinstance(data, str) else data

    def _seen(self, ours: str, theirs: str, data: Any, number: int, keys: list[str]) -> Any:
        """An item with the choice that its prepared form in the case shows, where that is stored whole."""
        model, processor = self.loaded()
        _, branch = branch_of(model, ours)
        key = keys[0]
        for name in (
            f"{key}.{theirs}.preprocessed.{number}.",
            f"{key}.{theirs}.preprocessed.",
            f"train.{theirs}.preprocessed.{keys[-1]}.",
        ):
            whole = [inner for inner in self.case.names(name) if inner in choices.WHOLE]
            wanted = self.case.get(f"{name}{whole[0]}") if whole else None
            if wanted is None or not isinstance(data, str):
                continue
            own = wanted if name.endswith(f"{number}.") or len(wanted) == 1 else wanted[number]
            found = data
            if ours == "video":
                frames = processor.recipe.modalities[ours].opens.num_frames  # type: ignore[attr-defined]

                def prepared(item: Any) -> Tensor:
                    return given(branch, processor.weave.prepare(ours, Media(ours, item)))

                found = choices.seen_frames(prepared, data, frames, own)
            else:
                step = processor.recipe.modalities[ours].branches[0].encoders[0].steps[0]
                if isinstance(step, ClapMel):
                    found = choices.seen_crops(step, data, own.flatten(0, -4)[0])
            if found is not data:
                self.notes.append(
                    f"what the original drew for {published(ours).key} is not listed; it was found by what the "
                    "case holds of the prepared items"
                )
            return found
        return data

    def foreign_ids(self, woven: Sequence, values: Any) -> list[int]:
        """Ids (or labels) with the reference's negative numbers in the holes of the ids."""
        recipe = self.loaded()[1].recipe
        index = {k: token_index(published(n).token) for k, n in enumerate(recipe.modalities, 1)}
        return [
            index.get(int(owner), int(value))
            for value, owner in zip(values, woven.owner, strict=True)
        ]

    def items(self, woven: Sequence) -> Iterator[tuple[str, str, list[Item]]]:
        """The items of a conversation by modality: the reference's name, ours, and what was prepared."""
        for theirs, ours in self.names.items():
            if woven.items.get(ours):
                yield theirs, ours, woven.items[ours]


def branch_of(model: MultimodalLM, name: str) -> tuple[Modality, Branch]:
    """The modules of a modality; all of this family have a single branch."""
    modality = model.modality(name)
    branch = modality.branches[0]
    assert isinstance(branch, Branch)
    return modality, branch


def given(branch: Branch, item: Item) -> Tensor:
    """What the encoder is given of an item: the steps on the device are done."""
    tiles = item.inputs[0]
    for step in branch.device_steps[0]:
        tiles = step.on_tensor(tiles)  # type: ignore[attr-defined]
    return tiles


def features(branch: Branch, item: Item) -> Tensor:
    """What the encoder gives for an item."""
    with torch.inference_mode():
        found: Tensor = branch.finishes[0](branch.encode(0, item.inputs[0], None))
    return found
