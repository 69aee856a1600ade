"""multi_token's own words for a model: `from omnimix.families.multi_token.face import load_trained_lora_model`.

A script of its users changes the lines that import from `multi_token` and no other::

    from multi_token.inference import load_trained_lora_model     # becomes
    from omnimix.families.multi_token.face import load_trained_lora_model

The model holds an `Assistant`. Ids are as `encode_chat` makes them: an item is so many copies of a negative number,
the hash of its placeholder; `generate` takes them back with what was prepared of the items.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import BatchEncoding

from omnimix.calls import checked_call
from omnimix.compose.processor import Processor
from omnimix.compose.sequence import Item, Sequence as Woven
from omnimix.errors import OmnimixError, SampleError
from omnimix.families.multi_token.documents import split_text_into_documents
from omnimix.families.multi_token.placeholders import conversation, published
from omnimix.families.multi_token.senses import BUILDERS, SENSES, THEIRS
from omnimix.generate.assistant import Assistant, load
from omnimix.generate.decoding import Options
from omnimix.registry import did_you_mean

__all__ = [
    "MODALITY_BUILDERS",
    "LoadedModel",
    "Modality",
    "ModelTokenizer",
    "encode_chat",
    "load_trained_lora_model",
    "split_text_into_documents",
]

BITS = {16: None, 8: "int8", 4: "nf4"}
"""`load_bits` of the reference and how weights are held here."""


@dataclass(frozen=True)
class Modality:
    """What scripts ask of a modality.

    Attributes:
        name: the reference's, `vision_clip` for instance.
        token: its placeholder in a text.
        data_key: the list of items in a row or request.
        token_width: how many places an item takes; None of a modality that belongs to no model yet.
    """

    name: str
    token: str
    data_key: str
    token_width: int | None = None

    @classmethod
    def of(cls, theirs: str, width: int | None = None) -> Modality:
        told = published(SENSES[theirs].name)
        return cls(theirs, told.token, told.key, width)

    @property
    def ours(self) -> str:
        """Its name in our recipes."""
        return SENSES[self.name].name

    @property
    def token_idx(self) -> int:
        """The number that stands for the placeholder in ids: minus a hash of its characters."""
        total: int = sum(ord(letter) ** i for i, letter in enumerate(self.token))
        return -(total % 10000)


def _builder(names: Iterable[str]) -> Callable[[], list[Modality]]:
    return lambda: [Modality.of(name) for name in names]


MODALITY_BUILDERS = {builder: _builder(names) for builder, names in BUILDERS.items()}
"""The reference's table: what each builder makes. How many places an item takes, its checkpoint says."""


class ModelTokenizer:
    """The base model's tokenizer as scripts use it."""

    def __init__(self, processor: Processor) -> None:
        self.processor = processor
        inner = self._inner = processor.weave.tokenizer
        self.pad_token_id, self.eos_token_id, self.bos_token_id = inner.pad, inner.eos, inner.bos

    def __call__(self, text: str, **_: Any) -> BatchEncoding:
        """Ids of a text, without a begin token."""
        return BatchEncoding({"input_ids": self._inner.encode(text)[0]})

    def decode(self, ids: Any, skip_special_tokens: bool = False, **_: Any) -> str:
        """The text of ids; numbers of items say nothing."""
        plain = [int(i) for i in ids if i >= 0]
        text: str = self._inner.decode(plain, specials=not skip_special_tokens)
        return text

    def batch_decode(self, rows: Any, skip_special_tokens: bool = False, **_: Any) -> list[str]:
        return [self.decode(row, skip_special_tokens) for row in rows]


class LoadedModel:
    """A model as `load_trained_lora_model` gives it.

    Attributes:
        assistant: what it holds; everything else of omnimix works on that.
        modalities: in the order of the checkpoint.
    """

    def __init__(self, assistant: Assistant) -> None:
        self.assistant = assistant
        widths = assistant.model.tokens_per_tile
        self.modalities = [
            Modality.of(THEIRS[name], widths[name])
            for name in assistant.processor.recipe.modalities
        ]

    @property
    def device(self) -> torch.device:
        return self.assistant.device

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = next(self.assistant.model.parameters()).dtype
        return dtype

    def eval(self) -> LoadedModel:
        self.assistant.model.eval()
        return self

    def to(self, *place: Any, **words: Any) -> LoadedModel:
        self.assistant.model.to(*place, **words)
        return self

    @checked_call
    def generate(
        self,
        input_ids: Tensor,
        modality_inputs: Mapping[str, Sequence[Any]] | None = None,
        max_new_tokens: int = 20,
        do_sample: bool = False,
        temperature: float = 1.0,
        top_p: float = 1.0,
        use_cache: bool = True,
        **words: Any,
    ) -> Tensor:
        """Ids with the new ones behind them.

        Args:
            input_ids: `[rows, n]` of `encode_chat`, of one length.
            modality_inputs: for each modality a list with what `encode_chat` prepared, row after row.
            use_cache: keep what was computed for earlier tokens; without, each step runs all of them again.

        Raises:
            OmnimixError: a word that nothing here does, or items that do not fit the ids.
        """
        for word in words:
            known = ("max_new_tokens", "do_sample", "temperature", "top_p", "modality_inputs")
            raise OmnimixError(f"generate takes no {word!r}", hint=did_you_mean(word, known))
        processor, given = self.assistant.processor, modality_inputs or {}
        names = [modality.name for modality in self.modalities]
        if input_ids.ndim != 2 or input_ids.is_floating_point():
            shape = f"{input_ids.dtype} of the shape {list(input_ids.shape)}"
            hint = 'give encode_chat(...)["input_ids"].unsqueeze(0), [rows, n]'
            raise SampleError(f"input_ids are {shape}", where="generate", hint=hint)
        for name, items in given.items():
            if name not in names:
                hint = did_you_mean(name, names)
                raise SampleError(
                    f"the model has no modality {name!r}", where="generate", hint=hint
                )
            if len(items) != len(input_ids):
                what = f"{len(items)} lists of {name} for {len(input_ids)} rows"
                raise SampleError(what, where="generate", hint="give one list for each row")
        rows = [
            self._woven(ids, {name: items[i] for name, items in given.items()})
            for i, ids in enumerate(input_ids.tolist())
        ]
        batch = processor.batch(rows, "left").to(self.device)
        options = Options(max_new_tokens, *((temperature, top_p) if do_sample else (0.0, 1.0)))
        ends = [] if processor.weave.tokenizer.eos is None else [processor.weave.tokenizer.eos]
        with torch.inference_mode():
            written = self.assistant.model.generate(
                **batch.inputs(),
                generation_config=options.config(ends, processor.weave.tokenizer.pad),
                use_cache=use_cache,
            )
        new = written[:, batch.input_ids.shape[1] :]
        return torch.cat([input_ids.to(new.device), new], dim=1)

    def _woven(self, ids: list[int], given: Mapping[str, Any]) -> Woven:
        """Ids and prepared items of a row as the model takes them."""
        processor = self.assistant.processor
        owner = np.zeros(len(ids), dtype=np.int64)
        items: dict[str, list[Item]] = {}
        for modality in self.modalities:
            places = np.asarray(ids) == modality.token_idx
            owner[places] = processor.weave.owner[modality.ours]
            own = list(given.get(modality.name) or ())
            count, width = int(places.sum()), modality.token_width or 1
            if count % width or count > len(own) * width:
                raise SampleError(
                    f"{count} places of {modality.name} and {len(own)} items of {width} each",
                    hint="give generate what encode_chat made of the same conversation",
                )
            if count:  # items behind the last place are passed over, as there
                items[modality.ours] = own[: count // width]
        plain = np.where(owner > 0, processor.weave.tokenizer.pad, np.asarray(ids))
        return Woven(plain, np.full(len(ids), -100, dtype=np.int64), owner, items, "row")


@checked_call
def encode_chat(
    item: Mapping[str, Any], tokenizer: ModelTokenizer, modalities: Sequence[Modality]
) -> dict[str, Any]:
    """A request or row as ids, labels, and what is prepared of the items of each modality.

    Args:
        item: `messages` and one list for each modality; a list may be missing where no placeholder asks for it.
        tokenizer, modalities: those of one model.

    Raises:
        OmnimixError: messages, counts or items that do not fit; names the place.
    """
    processor = tokenizer.processor
    ours = [modality.ours for modality in modalities]
    sample = conversation(item.get("messages"), item, ours, str(item.get("id") or "chat"), "ignore")
    woven = processor.weave(sample, sample.turns[-1].role == "user")
    ids, items = woven.ids.copy(), {}
    for modality in modalities:
        ids[woven.owner == processor.weave.owner[modality.ours]] = modality.token_idx
        items[modality.name] = woven.items.get(modality.ours, [])
    return {"input_ids": torch.from_numpy(ids), "labels": torch.from_numpy(woven.labels), **items}


@checked_call
def load_trained_lora_model(
    model_name_or_path: str,
    model_lora_path: str,
    model_cls: Any = None,
    modalities: Sequence[Modality] | None = None,
    load_bits: int = 16,
    device_map: str | torch.device | None = "auto",
) -> tuple[LoadedModel, ModelTokenizer]:
    """Model and tokenizer of a base model with an adapter's folder over it.

    Args:
        model_name_or_path: the base language model, a hub id or a folder.
        model_lora_path: the adapter's folder, or a released id (`sshh12/Mistral-7B-LoRA-VisionCLIP-LLAVA`).
        model_cls: the checkpoint says it.
        modalities: the checkpoint says them; a list of other ones is refused.
        load_bits: 16, or 8 and 4, with the adapter worked in first (the reference keeps it beside the weights).
        device_map: `auto` takes the GPU where there is one; else a device.

    Raises:
        OmnimixError: a word that does not fit the checkpoint.
    """
    if load_bits not in BITS:
        raise OmnimixError(f"load_bits is {load_bits}", hint="it is one of 16, 8, 4")
    device = None if device_map == "auto" else device_map
    graphics = torch.cuda.is_available() if device is None else torch.device(device).type == "cuda"
    # Half precision as there; on a CPU, where few of its operations are quick, whole.
    dtype = torch.float16 if graphics else torch.float32
    parts, bits = {"llm": model_name_or_path}, BITS[load_bits]
    model = LoadedModel(load(model_lora_path, device, dtype, parts=parts, quantization=bits))
    held = [modality.name for modality in model.modalities]
    asked = held if modalities is None else [modality.name for modality in modalities]
    if asked != held:
        raise OmnimixError(
            f"the checkpoint has the modalities {', '.join(held)}, not {', '.join(asked)}",
            where=str(model_lora_path),
            hint="leave modalities out",
        )
    return model, ModelTokenizer(model.assistant.processor)
