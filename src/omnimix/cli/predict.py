"""`omnimix predict`: answers to a data set, in a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from omnimix.cli import options
from omnimix.cli.bars import bars
from omnimix.cli.guard import say, words_of


def command(
    model: options.Model,
    data: Annotated[Path, typer.Argument(help="Records; an answer that ends one is not shown.")],
    out: Annotated[Path, typer.Option(help="Where the answers go, one JSON line a record.")],
    batch_size: Annotated[int, typer.Option(help="Questions answered together.", min=1)] = 32,
    limit: Annotated[int | None, typer.Option(help="The first so many records.")] = None,
    media: options.Media = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Begin the file anew.")] = False,
    max_new_tokens: options.MaxNewTokens = 64,
    temperature: options.Temperature = 0.0,
    top_p: options.TopP = 1.0,
    seed: options.Seed = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    backend: options.Backend = "torch",
    backend_arg: options.BackendArgs = None,
    weights: options.Weights = "16",
    feature_cache: options.FeatureCache = None,
) -> None:
    """Answer all records of a data set; the same command goes on where it was stopped.

    Ends with exit code 1 where records could not be asked; their lines say why.
    """
    from omnimix.evaluate.predict import predict
    from omnimix.evaluate.records import open_records
    from omnimix.generate.decoding import Options
    from omnimix.generate.opening import open_model

    chosen = Options(max_new_tokens, temperature, top_p, seed=seed)
    source = open_records(data, media=media or ())
    engine = words_of(backend_arg or (), "--backend-arg")
    assistant = open_model(model, device, dtype, backend, weights, options.note, engine)  # type: ignore[arg-type]
    if feature_cache is not None:
        assistant.keep_features(feature_cache)
    with bars() as step:

        def progress(done: int, total: int) -> None:
            step(data.name, done, total)

        made = predict(assistant, source, data, out, chosen, batch_size, limit, overwrite, progress)
    empty = f", {made.empty} of them empty" if made.empty else ""
    typer.echo(f"{out}: {made.rows - made.failed} answers{empty}")
    if made.failed:
        say(f"{made.failed} of {made.rows} records could not be asked; the first: {made.first}")
        raise typer.Exit(1)
