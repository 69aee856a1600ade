"""Options that several commands have, each described once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

Model: TypeAlias = Annotated[
    str,
    typer.Argument(
        help="A shipped model's name, a model folder, or the file of a recipe over pretrained parts."
    ),
]
Boxes: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--box", metavar="X1 Y1 X2 Y2", help="A box on the last picture, in pixels."),
]
Points: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--point", metavar="X Y", help="A point on the last picture, in pixels."),
]
Regions: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--region",
        metavar="JSON",
        help='Any region: {"polygon": [[x, y], ...]}, {"png": "mask.png"} ..., or a .json file.',
    ),
]
Media: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--media", help="The folder that paths in the rows start from; may be given again."
    ),
]
MaxNewTokens: TypeAlias = Annotated[int, typer.Option(help="The most tokens of an answer.")]
Temperature: TypeAlias = Annotated[float, typer.Option(help="0 takes the likeliest word.")]
TopP: TypeAlias = Annotated[float, typer.Option(help="Share of likely words to choose from.")]
Seed: TypeAlias = Annotated[int | None, typer.Option(help="Makes sampling repeatable.")]
Device: TypeAlias = Annotated[str | None, typer.Option(help="cpu, cuda ...")]
Parts: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--part", metavar="NAME=PLACE", help="A part that a checkpoint lacks."),
]
Words: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--word", metavar="NAME=VALUE", help="A fact that no file tells."),
]
AllowChanges: TypeAlias = Annotated[
    bool,
    typer.Option("--allow-changes", help="Go on in a folder whose run began with other words."),
]
FallBack: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--fall-back",
        help="Where the newest checkpoint is damaged, go on from the whole one before it.",
    ),
]
Plan: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(metavar="WORD=VALUE,...", help="Lay the model over processes: shard=full."),
]
Processes: TypeAlias = Annotated[
    int, typer.Option(min=1, help="Start so many processes here, as torchrun does.")
]
ProveResume: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--prove-resume",
        help="Read the batches around the newest checkpoint again and compare their hashes; nothing is trained.",
    ),
]
FeatureCache: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        help="A folder in which what the encoders give is kept, for the next time that the same items are asked about."
    ),
]
Parallel: TypeAlias = Annotated[
    str | None, typer.Option(help="tensor: share the model out over the processes of torchrun.")
]
Quantization: TypeAlias = Annotated[
    str | None, typer.Option(help="nf4 or int8: hold the language model in fewer bits.")
]
Dtype: TypeAlias = Annotated[
    str | None,
    typer.Option(
        help="float32, bfloat16, float16, or auto: the sooner one of the first two, found by a short measurement."
    ),
]
Backend: TypeAlias = Annotated[
    str,
    typer.Option(
        help="What runs the language model: torch, openvino or llama.cpp on a CPU, or vllm."
    ),
]
BackendArgs: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--backend-arg",
        metavar="NAME=VALUE",
        help="A word of vLLM's: tensor_parallel_size=2 ...; url=http://host:8000 for a server of its own.",
    ),
]
Weights: TypeAlias = Annotated[
    str, typer.Option(help="How OpenVINO and llama.cpp hold its matrices: 16 (bits), int8 or int4.")
]


def plan_words(given: list[str] | None) -> list[str]:
    """Overrides of what `--parallel shard=full,tensor=2` was given, once or several times."""
    return [f"parallel.{word}" for one in given or () for word in one.split(",")]


def note(sentence: str) -> None:
    """A line on stderr that is no error."""
    typer.echo(sentence, err=True)
