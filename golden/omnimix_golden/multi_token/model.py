"""multi_token's cases: prompts, prepared items, features, embeddings, logits, answers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from omnimix.compose.modality import Branch
from omnimix.compose.sequence import Item, Sequence
from omnimix.compose.weave import Weaver
from omnimix.convert.report import Check, close, same
from omnimix.errors import ContextError, OmnimixError
from omnimix.families.multi_token.placeholders import published
from omnimix.generate.assistant import Assistant
from omnimix.generate.decoding import Options
from omnimix.media.sound_steps import resampled
from omnimix.types import Media, Sample, Turn
from omnimix_golden.case import awaits_answer
from omnimix_golden.multi_token.case import MultiTokenCase, branch_of, features, given, token_index


def senses(reading: MultiTokenCase) -> Iterator[Check]:
    """Every modality: its placeholder, the reference's number of it, and its tokens for each item."""
    model, _ = reading.loaded()
    for row in reading.case.facts["modalities"]:
        name = reading.names.get(row["name"])
        yield same("senses", f"{row['name']}: listed", name is not None, True)
        if name is None:
            continue
        told = published(name)
        found = {
            "token": told.token,
            "data_key": told.key,
            "token_idx": token_index(told.token),
            "token_width": model.tokens_per_tile[name],
        }
        for word, value in found.items():
            if word in row:
                yield same("senses", f"{row['name']}: {word}", value, row[word])


def specials(reading: MultiTokenCase) -> Iterator[Check]:
    """The unknown token fills."""
    tokenizer = reading.loaded()[1].weave.tokenizer
    facts = reading.case.facts
    wanted = facts["special_tokens_after_fix_tokenizer"]
    found = tokenizer.decode([tokenizer.pad], specials=True)
    yield same("senses", "fill token", found, wanted.get("pad_token", found))
    yield same("senses", "its id", tokenizer.pad, facts.get("pad_token_id", tokenizer.pad))


def requests(reading: MultiTokenCase) -> Iterator[Check]:
    """Every request up to its greedy answer."""
    bodies = {row["name"]: row["body"] for row in reading.request["requests"]}
    for i, facts in enumerate(reading.case.facts["requests"]):
        name = facts["name"]
        yield from _Request(reading, f"req{i}", name, facts, bodies[name]).checks()


class _Request:
    """One request of the case."""

    def __init__(
        self,
        reading: MultiTokenCase,
        key: str,
        name: str,
        facts: Mapping[str, Any],
        body: Mapping[str, Any],
    ) -> None:
        self.reading, self.key, self.name, self.facts = reading, key, name, facts
        self.model, self.processor = reading.loaded()
        self.sample = reading.sample(body, name)
        self.asks = awaits_answer(self.sample)
        self.woven = self.processor.weave(self.sample, self.asks)

    def golden(self, name: str) -> Tensor | None:
        return self.reading.case.get(f"{self.key}.{name}")

    def checks(self) -> Iterator[Check]:
        if "chat_string" in self.facts:
            yield same(
                "prompt", self.name, shown(self.reading, self.sample), self.facts["chat_string"]
            )
        yield from self._ids()
        for theirs, ours, items in self.reading.items(self.woven):
            key = f"{self.key}.{theirs}.preprocessed"
            yield from prepared(self.reading, items, ours, key, f"{self.name} {theirs}")
            yield from self._encoded(theirs, ours, items)
            yield from self._heard(theirs, ours)
        yield from self._logits()
        yield from self._answer()

    def _ids(self) -> Iterator[Check]:
        ids = self.reading.foreign_ids(self.woven, self.woven.ids)
        for wanted in (self.golden("input_ids"), self.facts.get("input_ids")):
            if wanted is not None:
                yield same("ids", self.name, ids, wanted)
        yield same(
            "ids", f"{self.name}: length", len(ids), self.facts.get("sequence_length", len(ids))
        )
        labels = self.golden("labels")
        if labels is not None:
            # The begin token has a label there, which nothing is predicted from.
            yield same("labels", self.name, self.woven.labels[1:].tolist(), labels[1:])

    def _encoded(self, theirs: str, ours: str, items: list[Item]) -> Iterator[Check]:
        modality, branch = branch_of(self.model, ours)
        found = torch.cat([features(branch, item) for item in items])
        tolerance = self.reading.tolerance
        wanted = self.golden(f"{theirs}.features")
        if wanted is not None:
            yield close("features", f"{self.name} {theirs}", found, wanted, tolerance("features"))
        wanted = self.golden(f"{theirs}.projected")
        if wanted is not None:
            batch = self.processor.batch([self.woven])
            with torch.inference_mode():
                tokens = modality(batch["items"][ours]).tokens
            rows = tokens.unflatten(0, (len(items), -1))
            yield close("projected", f"{self.name} {theirs}", rows, wanted, tolerance("projected"))

    def _heard(self, theirs: str, ours: str) -> Iterator[Check]:
        """Sounds at the rate of their encoder, one channel."""
        asked = [media for media in self.sample.media() if media.kind == ours]
        spec = self.processor.recipe.modalities[ours]
        for stem in (theirs, published(ours).key):
            for name in sorted(self.reading.case.names(f"{self.key}.{stem}.")):
                found = re.fullmatch(r"(?:(\d+)\.)?waveform_resampled(?:_first\d+)?", name)
                wanted = self.golden(f"{stem}.{name}") if found else None
                if found is None or wanted is None:
                    continue
                sound: Any = spec.opens.open(asked[int(found[1] or 0)])  # type: ignore[attr-defined]
                rate = int(spec.branches[0].encoders[0].steps[0].sampling_rate)  # type: ignore[attr-defined]
                wave = torch.from_numpy(resampled(sound.mono(), sound.rate, rate))
                some = wave[: len(wanted)] if "_first" in name else wave
                tolerance = self.reading.tolerance("preprocessed")
                yield close("preprocessed", f"{self.name} {name}", some, wanted, tolerance)

    def _logits(self) -> Iterator[Check]:
        batch = self.processor.batch([self.woven])
        with torch.inference_mode():
            embeddings = self.model.embed(batch.input_ids, batch["items"], batch.item_places)
            logits = self.model(**batch.inputs()).logits
        for word, found in (("inputs_embeds", embeddings), ("logits", logits)):
            wanted = self.golden(word)
            if wanted is not None:
                yield close(word, self.name, found[0], wanted, self.reading.tolerance(word))

    def _answer(self) -> Iterator[Check]:
        wanted = self.golden("generated_ids")
        stated = self.facts.get("generated_ids")
        if wanted is None and stated is None:
            return
        ids, text = self._written()
        for golden in (wanted, stated):
            if golden is not None:
                yield same("greedy ids", self.name, ids, golden)
        if "generated_text" in self.facts:
            yield same("text", self.name, text, self.facts["generated_text"].strip())

    def _written(self) -> tuple[list[int], str]:
        """At most 16 tokens behind the conversation, as they are and as text."""
        if self.asks:
            answer = Assistant(self.model, self.processor).reply(self.sample, max_new_tokens=16)
            return list(answer.ids), answer.text
        batch, tokenizer = self.processor.batch([self.woven]), self.processor.weave.tokenizer
        ends = [] if tokenizer.eos is None else [tokenizer.eos]
        config = Options(max_new_tokens=16).config(ends, tokenizer.pad)
        with torch.inference_mode():
            row = self.model.generate(**batch.inputs(), generation_config=config)[0]
        ids = row[batch.input_ids.shape[1] :].tolist()
        return ids, tokenizer.decode(ids).strip()


def shown(reading: MultiTokenCase, sample: Sample) -> str:
    """The prompt as one string, with the placeholders and the begin token as the reference writes them."""
    _, processor = reading.loaded()
    turns = [Turn(turn.role, ("".join(map(_placeholder, turn.content)),)) for turn in sample.turns]
    style = processor.recipe.template
    begin = processor.weave.tokenizer.bos if style.bos else None
    front = "" if begin is None else processor.weave.tokenizer.decode([begin], specials=True)
    return front + style.text(Sample(tuple(turns), sample.id), awaits_answer(sample))


def _placeholder(part: str | Media) -> str:
    return published(part.kind).token if isinstance(part, Media) else part


# --- items ---


def prepared(
    reading: MultiTokenCase, items: list[Item], ours: str, key: str, what: str
) -> Iterator[Check]:
    """What the encoder is given, against goldens whose names say which part of it they hold."""
    _, branch = branch_of(reading.loaded()[0], ours)
    tolerance = reading.tolerance("preprocessed")
    for name in sorted(reading.case.names(key)):
        wanted = reading.case.get(f"{key}{name}")
        if wanted is None or name[:1] not in ("", ".", "_"):
            continue
        label = f"{what}{name}"
        if name.endswith((".input_ids", ".attention_mask")):
            if ours == "document":
                yield _tokens(branch, items, name, wanted, label)
            else:
                reading.notes.append(
                    f"the original hands its {ours} encoder a text that means nothing (IGNORE); features of "
                    "items do not depend on it"
                )
            continue
        if name.endswith(".is_longer"):
            # CLAP's encoder takes every sound for a long one, as the reference's preparation does of one.
            yield same("preprocessed", label, [[True]] * len(wanted), wanted)
            continue
        chosen = items
        place = re.match(r"\.(\d+)", name)
        if place is not None:
            chosen = items[int(place[1]) : int(place[1]) + 1]
        found = torch.cat([given(branch, item) for item in chosen])
        yield close("preprocessed", label, _part(found, name, wanted), wanted, tolerance)
        yield from _constant_tail(reading, key, found, label, tolerance)


_PARTS: tuple[tuple[str, Callable[[Tensor, int], Tensor]], ...] = (
    (r"_first(\d+)$", lambda found, n: found[..., :n]),
    (r"_center(\d+)$", lambda found, n: _middle(found, n)),
    (r"_clips_0_(\d+)$", lambda found, n: found[:, : n + 1]),
    (r"_one_of_four_equal$", lambda found, _: found[:, :1]),
)
"""How a golden's name says which part of a tensor it holds."""


def _part(found: Tensor, name: str, wanted: Tensor) -> Tensor:
    for pattern, cut in _PARTS:
        match = re.search(pattern, name)
        if match is not None:
            found = cut(found, int(match[1]) if match.groups() else 0)
    # The reference keeps a dimension of one item, or of one channel, here and there.
    return found.reshape(wanted.shape) if found.numel() == wanted.numel() else found


def _middle(found: Tensor, size: int) -> Tensor:
    top, left = ((side - size) // 2 for side in found.shape[-2:])
    return found[..., top : top + size, left : left + size]


def _constant_tail(
    reading: MultiTokenCase, key: str, found: Tensor, label: str, tolerance: float
) -> Iterator[Check]:
    """Frames that a golden does not store since they are all one number."""
    facts = (reading.case.facts.get("whisper_constant_tail") or {}).get(key)
    if facts is None:
        return
    yield same("preprocessed", f"{label}: frames", found.shape[-1], facts["total_frames"])
    tails = found.flatten(0, -3)[..., int(facts["stored_frames"]) :]
    for tail, value in zip(tails, facts["value_of_all_later_frames"], strict=True):
        yield close("preprocessed", f"{label}: tail", tail, torch.full_like(tail, value), tolerance)


def _tokens(branch: Branch, items: list[Item], name: str, wanted: Tensor, label: str) -> Check:
    """Ids of documents; the reference fills all of a row up to the longest, here none is filled."""
    rows = [[i for i in given(branch, item).flatten().tolist() if i >= 0] for item in items]
    if name.endswith(".attention_mask"):
        return same("preprocessed", label, [len(row) for row in rows], wanted.sum(dim=1))
    kept = [ids[: len(row)] for ids, row in zip(wanted.tolist(), rows, strict=True)]
    return same("preprocessed", label, rows, kept)


def text_item(reading: MultiTokenCase) -> Iterator[Check]:
    """A text for ImageBind, which the reference cannot encode and the encoder can."""
    facts = reading.case.facts["text_item"]
    model, processor = reading.loaded()
    _, branch = branch_of(model, "imagebind")
    turn = Turn("user", (Media("imagebind", facts["text"]),))
    (item,) = processor.weave(Sample((turn,), "text"), True).items["imagebind"]
    tolerance = reading.tolerance("features")
    wanted = reading.case.get("text_item.tokens")
    if wanted is not None:
        ids = [i for i in given(branch, item).flatten().tolist() if i >= 0]
        # The reference fills up with 0, behind the end token, where nobody looks.
        stored = wanted.flatten().tolist()
        yield same("preprocessed", "text item", ids + [0] * (len(stored) - len(ids)), stored)
    wanted = reading.case.get("text_item.embedding_from_integer_tokens")
    if wanted is not None:
        found = features(branch, item).reshape(wanted.shape)
        yield close("features", "text item", found, wanted, tolerance)
    reading.notes.append("the reference cannot encode texts with ImageBind; here they are encoded")


# --- what the reference cuts, and its server ---


def truncated(reading: MultiTokenCase) -> Iterator[Check]:
    """A training row cut through an item: refused here; there, places of the cut item stay zero."""
    facts = reading.case.facts["truncated"]
    length = int(facts["model_max_length"])
    ids = reading.case.get("truncated.input_ids")
    if ids is None:
        return
    model, processor = reading.loaded()
    woven = _row_of(reading, ids[0].tolist())
    yield same("truncated", "a row of these ids", woven is not None, True)
    if woven is None:
        return
    short = Weaver(processor.recipe, processor.weave.tokenizer, model.tokens_per_tile, length)
    yield same("truncated", "refused", _refused(lambda: short(_sample_of(reading, woven))), True)
    labels = reading.case.get("truncated.labels")
    if labels is not None:
        found = [int(label) for label in woven.labels[1:length]]
        yield same("truncated", "labels before the cut", found, labels[0, 1:])
    wanted = reading.case.get("truncated.inputs_embeds")
    if wanted is None:
        return
    batch = processor.batch([woven])
    with torch.inference_mode():
        found_rows = model.embed(batch.input_ids, batch["items"], batch.item_places)[:, :length]
    zero = _cut_item(woven, processor.weave.owner, length)
    yield same("truncated", "places of the cut item", int(zero.sum()), facts["zero_rows"])
    found_rows = found_rows.masked_fill(zero[None, :, None], 0.0)
    tolerance = reading.tolerance("inputs_embeds")
    yield close("truncated", "embeddings before the cut", found_rows, wanted, tolerance)
    reading.notes.append("a row that is cut through an item is refused here, never trained on")


def _cut_item(woven: Sequence, owner: Mapping[str, int], length: int) -> Tensor:
    """Which of the first places belong to an item that goes on behind them."""
    found = torch.zeros(length, dtype=torch.bool)
    for name, items in woven.items.items():
        places = torch.from_numpy(woven.owner == owner[name]).nonzero()[:, 0]
        for own in places.split([item.tokens for item in items]):
            if own[0] < length <= own[-1]:
                found[own[own < length]] = True
    return found


def _row_of(reading: MultiTokenCase, ids: list[int]) -> Sequence | None:
    """The training row that begins with these ids."""
    _, processor = reading.loaded()
    for i, row in enumerate(reading.rows):
        woven = processor.weave(reading.sample(row, f"row {i}"))
        if reading.foreign_ids(woven, woven.ids)[: len(ids)] == ids:
            return replace(woven, id=f"row {i}")
    return None


def _sample_of(reading: MultiTokenCase, woven: Sequence) -> Sample:
    place = int(woven.id.removeprefix("row "))
    return reading.sample(reading.rows[place], woven.id)


def _refused(work: Callable[[], Any]) -> bool:
    try:
        work()
    except ContextError:
        return True
    return False


_CHANGES: tuple[tuple[str, Callable[[dict[str, Any], str], Any]], ...] = (
    (r"messages missing", lambda body, _: body.pop("messages")),
    (r"one (\w+) item fewer than tokens", lambda body, key: body[key].pop()),
    (r"one (\w+) item more than tokens", lambda body, key: body[key].append(body[key][0])),
    (r"(\w+) is an empty list", lambda body, key: body.update({key: []})),
    (r"data key (\w+) missing", lambda body, key: body.pop(key)),
    (
        r"modality token inside an assistant message",
        lambda body, _: body["messages"].append(
            {"role": "assistant", "content": re.findall(r"<\w+>", str(body))[0]}
        ),
    ),
    (
        r"system role",
        lambda body, _: body["messages"].insert(0, {"role": "system", "content": "Be brief."}),
    ),
    (
        r"two user turns in a row",
        lambda body, _: body["messages"].append({"role": "user", "content": "And?"}),
    ),
    (r"client sends temperature", lambda body, _: body.update(temperature=1.0)),
)
"""What a probe of the reference's server does to the first request, by its name."""


def answers(reading: MultiTokenCase) -> Iterator[Check]:
    """The server's table as far as it is a matter of the model: answers, and what is refused."""
    bodies = {row["name"]: row["body"] for row in reading.request["requests"]}
    assistant = Assistant(*reading.loaded())
    for probe in reading.case.facts["http"]["probes"]:
        body = _probed(probe["name"], bodies)
        if body is None:
            continue
        try:
            sample = reading.sample(body, probe["name"])
            found: Any = assistant.reply(sample, max_new_tokens=24).text
        except OmnimixError:
            found = "refused"
        wanted = "refused" if probe["status"] >= 400 else (probe.get("json") or {}).get("output")
        if wanted is not None:
            yield same("http", probe["name"], found, wanted)
    reading.notes.append("routes and status codes of the server are a matter of `omnimix serve`")


def _probed(name: str, bodies: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """The body that a probe sends; None where it is about the route."""
    if name.startswith("ok: "):
        return dict(bodies.get(name.removeprefix("ok: "), {})) or None
    for pattern, change in _CHANGES:
        match = re.match(pattern, name)
        if match is not None:
            first = next(iter(bodies.values()))
            body = {k: list(v) if isinstance(v, list) else v for k, v in first.items()}
            change(body, match[1] if match.groups() else "")
            return body
    return None
