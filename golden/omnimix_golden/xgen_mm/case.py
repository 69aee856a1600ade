"""A golden case of xGen-MM: its checkpoints, its texts with marks, and the trainer's names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from omnimix.checkpoints import reading, tables
from omnimix.checkpoints.base import Parts, read_json
from omnimix.compose.model import MultimodalLM
from omnimix.compose.processor import Processor
from omnimix.compose.sequence import IGNORE, Sequence as Woven
from omnimix.errors import CheckpointError
from omnimix.families.xgen_mm.folder import Found, XGenMM
from omnimix.families.xgen_mm.names import table
from omnimix.families.xgen_mm.tokenizer import MARKS
from omnimix.language.slow_llama import SlowLlama
from omnimix.types import Media, Part, Sample, Turn
from omnimix_golden.case import Case
from omnimix_golden.parts import parts_of
from omnimix_golden.run import CaseReading

MARK = "<image>"

PUBLISHED = 2048
"""Tokens that the reference's trainer cuts a record at."""

_ROLES = {"human": "user", "gpt": "assistant"}


class XGenCase(CaseReading):
    """What all sections of a case need: its checkpoints, its texts, and the trainer's names."""

    family = "xgen_mm"

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        self._models: dict[str, tuple[MultimodalLM, Processor]] = {}

    @cached_property
    def layouts(self) -> dict[str, Found]:
        """The checkpoints of the case by folder name, complete ones first."""
        found: dict[str, Found] = {}
        root = self.case.folder / "checkpoint"
        named = [root / name for name in self.case.facts.get("checkpoint_layouts") or ()]
        for path in [*sorted(root.glob("*")), *(path for path in named if path.exists())]:
            layout = XGenMM().recognise(path)
            if layout is not None and layout.root not in [known.root for known in found.values()]:
                found[str(path.relative_to(root))] = layout
        if not found:
            raise CheckpointError("the case holds no checkpoint", where=str(self.case.folder))
        whole = {name: x for name, x in found.items() if "module." not in (x.prefix or "")}
        return {**whole, **found}

    @cached_property
    def words(self) -> dict[str, Any]:
        """What the case says about its model, in the reader's words."""
        return dict(parts_of(self.case.folder, self.case.facts).words)

    def release(self, layout: Found | None = None, **words: Any) -> Any:
        """A checkpoint of the case, with words laid over the case's own."""
        layout = layout or next(iter(self.layouts.values()))
        beside = XGenMM().parts(layout)
        return XGenMM().open(layout, Parts(beside.places, {**self.words, **words}))

    def loaded(self, **words: Any) -> tuple[MultimodalLM, Processor]:
        """Model and processor; the same ones for the same words."""
        key = repr(sorted(words.items()))
        if key not in self._models:
            model, processor, report = reading.load(self.release(**words))
            self.tell(report)
            self._models[key] = (model, processor)
        return self._models[key]

    @property
    def tolerance(self) -> float:
        """Of every number in a case of this family."""
        return self.case.tolerance("absolute")

    @cached_property
    def limit(self) -> int:
        """Most tokens of a training record, a picture counted as one: 2048, or less where the tokenizer says."""
        folder = self.release().folder
        said = (read_json(folder / "tokenizer_config.json") or {}).get(
            "model_max_length", PUBLISHED
        )
        return min(PUBLISHED, int(said))

    def taught(self, sample: Sample, processor: Processor) -> Woven:
        """A training record as the reference's collator has it: cut on the right, learned from or not."""
        return processor.weave(sample, max_length=self.limit, target=False, cuts_items=True)

    @cached_property
    def own_tokens(self) -> int:
        """Tokens before the three marks."""
        width = self.loaded()[1].recipe.language.head
        assert width is not None and width.width is not None
        return width.width - len(MARKS)

    def foreign(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Our tensors (weights, gradients) under the names of the trainer."""
        plan = table("", self.own_tokens).writing(tensors)
        return tables.write(plan, tensors)

    def foreign_names(self, names: Sequence[str]) -> list[str]:
        """The trainer's names of our parameters."""
        plan = table("", self.own_tokens).writing(names)
        return [name for move in plan.moves for name in move.foreign]

    # --- texts ---

    def content(self, text: str, files: Sequence[str]) -> tuple[Part, ...]:
        """A text with pictures at its marks; pictures beyond the marks are left out."""
        parts: list[Part] = []
        waiting = list(files)
        for i, piece in enumerate(text.split(MARK)):
            if i:
                if not waiting:
                    raise CheckpointError(
                        f"a prompt has more marks than its {len(files)} pictures: {text[:60]!r}",
                        where=str(self.inputs / "request.json"),
                    )
                parts.append(Media.image(str(self.inputs / waiting.pop(0))))
            if piece:
                parts.append(piece)
        return tuple(parts)

    def asked(self, prompt: str, files: Sequence[str], name: str) -> Sample:
        """A prompt of the request; one of several turns is written with the style's own marks between them."""
        waiting = list(files)
        turns = []
        for i, piece in enumerate(
            re.split(r"<\|end\|>\n(?:<\|user\|>\n)?(?:<\|assistant\|>\n)?", prompt)
        ):
            if piece or not i:
                own = [waiting.pop(0) for _ in range(min(piece.count(MARK), len(waiting)))]
                turns.append(Turn(("user", "assistant")[i % 2], self.content(piece, own)))
        return Sample(tuple(turns), name)

    def sample(self, turns: Sequence[Mapping[str, str]], name: str) -> Sample:
        """A conversation of the request; any picture will do where only the text is compared."""
        some = self.request["images"][0]
        made = []
        for turn in turns:
            text = turn["value"].replace("<s>", "")
            files = [some] * text.count(MARK)
            made.append(Turn(_ROLES.get(turn["from"], turn["from"]), self.content(text, files)))
        return Sample(tuple(made), name)

    def shown(self, sample: Sample, processor: Processor, open_answer: bool = False) -> str:
        """The prompt as the reference has it, with its marks."""
        turns = tuple(
            Turn(t.role, ("".join(MARK if isinstance(p, Media) else p for p in t.content),))
            for t in sample.turns
        )
        return processor.recipe.template.text(Sample(turns, sample.id), open_answer)

    def marked(self, woven: Woven, processor: Processor, fill: bool = False) -> tuple[Any, Any]:
        """Ids and labels with a mark for each picture in place of its hole.

        Args:
            fill: as many ids as places, as the base release has them: the mark, then placeholders.
        """
        spec = processor.recipe.tokenizer
        assert isinstance(spec, SlowLlama)
        numbers = {token.content: token.id for token in spec.added_tokens}
        mark, holder = numbers[MARKS[0]], numbers[MARKS[1]]
        ids: list[int] = []
        labels: list[int] = []
        waiting = list(woven.items.get("image", ()))
        place = 0
        while place < len(woven.ids):
            if not woven.owner[place]:
                ids.append(int(woven.ids[place]))
                labels.append(int(woven.labels[place]))
                place += 1
                continue
            count = waiting.pop(0).tokens
            ids += [mark, *([holder] * (count - 1) if fill else ())]
            labels += [IGNORE] * (count if fill else 1)
            place += count
        return torch.tensor(ids), torch.tensor(labels)
