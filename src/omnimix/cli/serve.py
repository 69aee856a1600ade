"""`omnimix serve`: a model over HTTP."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Annotated

import typer

from omnimix.cli import options
from omnimix.cli.guard import places_of, words_of
from omnimix.errors import OmnimixError

_HOME = ("127.0.0.1", "::1", "localhost")


Host = Annotated[str, typer.Option(help="Where to listen; 0.0.0.0 for all networks.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")]
Root = Annotated[
    Path | None,
    typer.Option(
        help="Requests may name files below this folder; default the current one where only this "
        "machine can ask, else none."
    ),
]
Fetching = Annotated[
    bool, typer.Option("--allow-fetch", help="Requests may name public http(s) addresses.")
]
MaxBody = Annotated[int, typer.Option(min=1, help="The most MiB of a request.")]
MaxItems = Annotated[int, typer.Option(min=0, help="The most items of a request.")]
MaxPixels = Annotated[
    int | None, typer.Option(min=1, help="The most pixels of a picture; default the recipe's.")
]
MaxWaiting = Annotated[
    int, typer.Option(min=1, help="The most requests at once, those that wait included.")
]
Hosts = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME", help="A name under which clients may ask, besides localhost and addresses."
    ),
]
Engine = Annotated[
    str,
    typer.Option(
        help="batched writes the answers of many requests together, one writes them one after the other."
    ),
]
CacheMemory = Annotated[
    int,
    typer.Option(
        min=1,
        help="MiB for the keys and values of running answers; half as many keep beginnings of prompts.",
    ),
]
MaxBatch = Annotated[int, typer.Option(min=1, help="The most answers that are written at once.")]
PrefillChunk = Annotated[
    int,
    typer.Option(
        min=1, help="The most tokens of new prompts that running answers wait for at each token."
    ),
]
Grace = Annotated[
    int, typer.Option(min=1, help="Seconds for waiting requests when the server is ended.")
]


def command(
    model: options.Model = "nano",
    host: Host = _HOME[0],
    port: Port = 7860,
    root: Root = None,
    allow_fetch: Fetching = False,
    max_new_tokens: options.MaxNewTokens = 128,
    temperature: options.Temperature = 0.0,
    top_p: options.TopP = 1.0,
    seed: options.Seed = None,
    max_body: MaxBody = 64,
    max_items: MaxItems = 64,
    max_pixels: MaxPixels = None,
    max_waiting: MaxWaiting = 32,
    allow_host: Hosts = None,
    grace: Grace = 120,
    engine: Engine = "batched",
    cache_memory: CacheMemory = 2048,
    max_batch: MaxBatch = 32,
    prefill_chunk: PrefillChunk = 256,
    device: options.Device = None,
    part: options.Parts = None,
    word: options.Words = None,
    quantization: options.Quantization = None,
) -> None:
    """Answer over HTTP: POST /chat takes messages and items, GET /health says that it is there and what it takes.

    SIGTERM and Ctrl-C let the requests that are there come to their answers.
    """
    if root is None and host in _HOME:
        root = Path()
    if engine not in ("batched", "one"):
        raise OmnimixError(f"there is no engine {engine!r}", hint="known are batched and one")
    if root is not None and not root.is_dir():
        raise OmnimixError("there is no such folder", where=str(root), hint="give --root a folder")
    try:
        from omnimix.serve import running, wires
        from omnimix.serve.app import Settings, create_app
        from omnimix.serve.batched import Batched, limits
        from omnimix.serve.engine import OneAtATime, limited
        from omnimix.serve.fetch import Fetcher
        from omnimix.serve.items import ItemReader
    except ModuleNotFoundError as error:
        raise OmnimixError(
            f"the package {error.name} is missing", hint="pip install 'omnimix[serve]'"
        ) from None
    from omnimix.generate.assistant import load
    from omnimix.generate.decoding import Options

    writing = Options(
        max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed
    )
    max_bytes = max_body * 1024 * 1024
    with running.listening(host, port) as listener:
        places, facts = places_of(part or ()), words_of(word or ())
        assistant = limited(
            load(model, device, parts=places, quantization=quantization, **facts), max_pixels
        )
        items = ItemReader(root, Fetcher(max_bytes) if allow_fetch else None)
        hosts = ("localhost", socket.gethostname(), host, *(allow_host or ()))
        settings = Settings(items, writing, max_bytes, max_items, max_waiting, hosts)
        answering = (
            Batched(assistant, model, limits(max_batch, cache_memory, prefill_chunk))
            if engine == "batched"
            else OneAtATime(assistant, model)
        )
        app = create_app(answering, settings)
        paths = ", ".join(f"POST {wire.path}" for wire in wires.wires())
        typer.echo(f"{model} answers at {running.address(listener)} ({paths}, GET /health)")
        running.run(app, listener, grace)
