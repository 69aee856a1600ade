"""Every name a recipe, a training file or a command may use, as tables of `module:Class` strings.

A row is data: nothing is imported until the name is used. A family of checkpoints keeps its rows in its own
folder, `families/<family>/registry.yaml`. Another package adds rows with an entry point in the group
`omnimix.<table>` that carries the same `module:Class` string::

    [project.entry-points."omnimix.connectors"]
    my_connector = "my_package.connectors:MyConnector"
"""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import yaml

from omnimix.errors import RegistryError

FAMILIES = Path(__file__).parent / "families"
"""A folder for each family of checkpoints; nothing else of the library knows their names."""


@cache
def family_rows() -> dict[str, dict[str, str]]:
    """The rows that the families bring, by table."""
    found: dict[str, dict[str, str]] = {}
    for path in sorted(FAMILIES.glob("*/registry.yaml")):
        for table, rows in yaml.safe_load(path.read_text(encoding="utf-8")).items():
            found.setdefault(table, {}).update(rows)
    return found


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The way out for a mistyped word: the nearest known one, or all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"known are: {', '.join(names)}"


def plug_in(file: Path) -> None:
    """Import a file, so that recipes may name its parts as `file:Class`; it runs as any program of yours.

    Raises:
        RegistryError: no such file, another module of its name, or an error in it.
    """
    name = file.stem
    known = sys.modules.get(name)
    if known is not None:
        if Path(getattr(known, "__file__", None) or "").resolve() == file.resolve():
            return
        raise RegistryError(
            f"there is another module {name!r}", where=str(file), hint="give the file another name"
        )
    if not file.is_file() or not name.isidentifier():
        raise RegistryError(
            "no such file of Python", where=str(file), hint="name a file such as my_parts.py"
        )
    # Worker processes import it by its name.
    sys.path.append(str(file.resolve().parent))
    try:
        importlib.import_module(name)
    except Exception as error:  # whatever the file does
        line = next(iter(str(error).splitlines()), "no message")
        raise RegistryError(
            f"the plugin cannot be imported ({type(error).__name__}: {line})", where=str(file)
        ) from error


class Registry(Mapping[str, str]):
    """One registry: name to `module:Class`, with rows of the families and of other packages appended."""

    def __init__(self, name: str, what: str, rows: Mapping[str, str]) -> None:
        self.name = name
        self.what = what
        self._own = dict(rows)

    @cache  # noqa: B019  (tables live as long as the process)
    def _rows(self) -> dict[str, str]:
        rows = {**self._own, **family_rows().get(self.name, {})}
        for point in entry_points(group=f"omnimix.{self.name}"):
            if point.name in rows and rows[point.name] != point.value:
                raise RegistryError(
                    f"two packages register the {self.what} {point.name!r}",
                    where=f"{rows[point.name]} and {point.value}",
                    hint="rename or uninstall one of them",
                )
            rows[point.name] = point.value
        return rows

    def __getitem__(self, name: str) -> str:
        if ":" in name:
            return name
        rows = self._rows()
        if name not in rows:
            raise RegistryError(f"unknown {self.what} {name!r}", hint=did_you_mean(name, rows))
        return rows[name]

    def __contains__(self, name: object) -> bool:
        return name in self._rows()

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows())

    def __len__(self) -> int:
        return len(self._rows())

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other

    @property
    def only(self) -> str | None:
        """The one row of the table's own, which is meant where no name is given; else None."""
        return next(iter(self._own)) if len(self._own) == 1 else None

    def load(self, name: str) -> Any:
        """Import and return what the row points at.

        Raises:
            RegistryError: unknown name (with the nearest known one), or a row that cannot be imported.
        """
        target = self[name]
        module, _, attribute = target.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise RegistryError(
                f"the {self.what} {name!r} could not be imported ({error})",
                where=target,
                hint="install the package it needs, or mend the row"
                if target != name
                else f"give the file that has it: --plugin {module}.py",
            ) from error


STEPS = Registry(
    "steps",
    "step",
    {
        "resize": "omnimix.media.steps:Resize",
        "smart_resize": "omnimix.media.steps:SmartResize",
        "pad": "omnimix.media.steps:Pad",
        "letterbox": "omnimix.media.steps:Letterbox",
        "resize_crop": "omnimix.media.steps:ResizeCrop",
        "crop": "omnimix.media.steps:CentreCrop",
        "anyres": "omnimix.media.tiling:AnyRes",
        "normalize": "omnimix.media.tensor_steps:Normalize",
        "renormalize": "omnimix.media.tensor_steps:Renormalize",
        "quadrants": "omnimix.media.tensor_steps:Quadrants",
        "tensor_resize": "omnimix.media.tensor_steps:TensorResize",
        "clip": "omnimix.media.clip:Clip",
        "log_mel": "omnimix.media.sound_steps:LogMel",
        "clap_mel": "omnimix.media.sound_steps:ClapMel",
        "imagebind_sound": "omnimix.media.sound_steps:ImageBindSound",
        "tokenize": "omnimix.media.text_steps:Tokenize",
    },
)

ENCODERS = Registry(
    "encoders",
    "encoder",
    {
        "timm": "omnimix.encoders.timm:TimmEncoder",
        "transformers": "omnimix.encoders.transformers:TransformersVision",
        "blip2_qformer": "omnimix.encoders.transformers:Blip2QFormer",
        "whisper": "omnimix.encoders.sounds:Whisper",
        "clap": "omnimix.encoders.sounds:Clap",
        "xclip": "omnimix.encoders.videos:XClip",
        "text": "omnimix.encoders.texts:TextEncoder",
        "imagebind": "omnimix.encoders.imagebind:ImageBind",
        "points_boxes": "omnimix.encoders.regions:PointsBoxes",
        "region_pool": "omnimix.encoders.regions:RegionPool",
    },
)

FINISHES = Registry(
    "finishes",
    "finishing step",
    {
        "drop_prefix": "omnimix.encoders.finish:DropPrefix",
        "pixel_shuffle": "omnimix.encoders.finish:PixelShuffle",
        "repeat_cells": "omnimix.encoders.finish:RepeatCells",
        "prepend_mean": "omnimix.encoders.finish:PrependMean",
        "norm": "omnimix.encoders.finish:Norm",
    },
)

CONNECTORS = Registry(
    "connectors",
    "connector",
    {
        "linear": "omnimix.connectors.mlp:Linear",
        "mlp": "omnimix.connectors.mlp:Mlp",
        "fused_mlp": "omnimix.connectors.mlp:FusedMlp",
        "linear_norm": "omnimix.connectors.mlp:LinearNorm",
        "token_mlp": "omnimix.connectors.mlp:TokenMlp",
        "perceiver": "omnimix.connectors.perceiver:Perceiver",
    },
)

ARRANGES = Registry(
    "arranges",
    "arrangement of tiles",
    {
        "row_bands": "omnimix.connectors.arrange:RowBands",
        "flat": "omnimix.connectors.arrange:Flat",
    },
)

CODECS = Registry(
    "codecs",
    "way of writing coordinates",
    {
        "fractions": "omnimix.prompts.coordinates:Coordinates",
        "llava": "omnimix.prompts.codecs.brackets:Llava",
        "ferret": "omnimix.prompts.codecs.brackets:Ferret",
        "qwen2_vl": "omnimix.prompts.codecs.qwen:Qwen2VL",
        "qwen2_5_vl": "omnimix.prompts.codecs.qwen:Qwen25VL",
        "qwen3_vl": "omnimix.prompts.codecs.qwen:Qwen3VL",
        "internvl": "omnimix.prompts.codecs.tagged:InternVL",
        "molmo": "omnimix.prompts.codecs.tagged:Molmo",
        "kosmos2": "omnimix.prompts.codecs.tokens:Kosmos2",
        "paligemma": "omnimix.prompts.codecs.tokens:PaliGemma",
        "florence2": "omnimix.prompts.codecs.tokens:Florence2",
    },
)

OPENERS = Registry(
    "openers",
    "kind of media",
    {
        "image": "omnimix.media.image:ImageOpener",
        "audio": "omnimix.media.audio:AudioOpener",
        "video": "omnimix.media.video:VideoOpener",
        "document": "omnimix.media.document:DocumentOpener",
        "region": "omnimix.media.region:RegionOpener",
        "several": "omnimix.media.several:Several",
    },
)

LANGUAGES = Registry(
    "languages",
    "language model",
    {"causal_lm": "omnimix.language.causal_lm:CausalLM"},
)

TOKENIZERS = Registry(
    "tokenizers",
    "tokenizer",
    {
        "fast": "omnimix.language.tokenizer:FastTokenizer",
        "sentencepiece": "omnimix.language.tokenizer:SentencePieceTokenizer",
        "slow_llama": "omnimix.language.slow_llama:SlowLlama",
    },
)

OBJECTIVES = Registry("objectives", "objective", {"sft": "omnimix.train.objectives:Sft"})

DATASETS = Registry(
    "datasets",
    "dataset",
    {
        "rows": "omnimix.data.rows:RowsSpec",
        "jsonl": "omnimix.data.sources:JsonlSource",
        "llava": "omnimix.data.llava:LlavaRecords",
    },
)

FORMATS = Registry(
    "formats",
    "format of rows",
    {
        # From the common to the narrow: rows are asked about from the end.
        "pairs": "omnimix.data.pairs:PairFormat",
        "alpaca": "omnimix.data.pairs:AlpacaFormat",
        "messages": "omnimix.data.talks:MessagesFormat",
        "grounded": "omnimix.data.pairs:GroundedFormat",
        "llava": "omnimix.data.talks:LlavaFormat",
        "sharegpt": "omnimix.data.talks:ShareGptFormat",
        "turns": "omnimix.data.talks:TurnsFormat",
    },
)

CHECKPOINTS = Registry("checkpoints", "checkpoint family", {})

READINGS = Registry(
    "readings",
    "reading of golden numbers",
    {"certificate": "omnimix.convert.carried:CertificateReading"},
)

SEGMENTERS = Registry(
    "segmenters",
    "type of model that makes masks",
    {
        "sam": "omnimix.segment.sam:Sam",
        "sam_hq": "omnimix.segment.sam:Sam",
        "sam2": "omnimix.segment.sam:Sam",
        "sam2_video": "omnimix.segment.sam:Sam",
        "edgetam": "omnimix.segment.sam:Sam",
        "edgetam_video": "omnimix.segment.sam:Sam",
        "sam3_tracker": "omnimix.segment.sam:Sam",
        "sam3_video": "omnimix.segment.sam:Sam",
    },
)

BENCHMARKS = Registry("benchmarks", "benchmark", {})

WIRES = Registry("wires", "wire format of the server", {"chat": "omnimix.serve.wires:Chat"})

MEASURES = Registry(
    "measures",
    "measure",
    {
        "exact": "omnimix.evaluate.short_answers:Exact",
        "relaxed": "omnimix.evaluate.short_answers:Relaxed",
        "yes_no": "omnimix.evaluate.short_answers:YesNo",
        "vqa": "omnimix.evaluate.vqa:Vqa",
        "anls": "omnimix.evaluate.short_answers:Anls",
        "iou": "omnimix.evaluate.grounding:Iou",
        "referring": "omnimix.evaluate.grounding:Referring",
        "cider": "omnimix.evaluate.captions:Cider",
        "judged": "omnimix.evaluate.judging:Judged",
    },
)

TABLES: tuple[Registry, ...] = (
    STEPS,
    ENCODERS,
    FINISHES,
    CONNECTORS,
    ARRANGES,
    CODECS,
    OPENERS,
    LANGUAGES,
    TOKENIZERS,
    OBJECTIVES,
    DATASETS,
    FORMATS,
    CHECKPOINTS,
    READINGS,
    SEGMENTERS,
    BENCHMARKS,
    WIRES,
    MEASURES,
)
