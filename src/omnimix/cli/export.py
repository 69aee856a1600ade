"""`omnimix export`: the language model alone, for other engines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from omnimix.cli import options
from omnimix.errors import OmnimixError


def command(
    model: options.Model,
    vllm: Annotated[
        Path | None,
        typer.Option(help="A new folder that vLLM and transformers' AutoModelForCausalLM open."),
    ] = None,
    gguf: Annotated[
        Path | None,
        typer.Option(help="A new file for llama.cpp, in float16; of llama's shape alone."),
    ] = None,
) -> None:
    """Write a model's language model alone, for an engine that takes our prompts as embeddings."""
    from omnimix.convert.exporting import FORMS
    from omnimix.generate.assistant import load

    asked = {name: out for name, out in (("vllm", vllm), ("gguf", gguf)) if out is not None}
    if not asked:
        raise OmnimixError("nothing is to be written", hint="name a place with --vllm or --gguf")
    assistant = load(model, "cpu")
    for name, out in asked.items():
        FORMS[name](assistant, out)
        typer.echo(f"written: {out}")
