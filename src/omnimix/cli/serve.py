"""`omnimix serve`: a model over HTTP."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import re
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated

import typer

from omnimix.cli import options
from omnimix.cli.guard import places_of, words_of
from omnimix.errors import OmnimixError

if TYPE_CHECKING:
    from omnimix.generate.assistant import Assistant
    from omnimix.generate.engine.core import Limits
    from omnimix.parallel.process_group import ProcessGroup
    from omnimix.serve.settings import Settings

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
EngineName = Annotated[
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
Deterministic = Annotated[
    bool,
    typer.Option(
        "--deterministic",
        help="In low precision too an answer is the same whoever asks beside it; slower with many.",
    ),
]
Grace = Annotated[
    int, typer.Option(min=1, help="Seconds for waiting requests when the server is ended.")
]


Keys = Annotated[
    list[str] | None,
    typer.Option(
        help="A key that clients must say; may be given again. Better: --api-key-file, or the variable "
        "OMNIMIX_API_KEY, which other users of the machine do not see."
    ),
]
KeyFile = Annotated[Path | None, typer.Option(help="A file of such keys, one a line.")]
Rate = Annotated[
    int | None, typer.Option(min=1, help="Requests a minute of one key, or of one address.")
]
Origins = Annotated[
    list[str] | None,
    typer.Option(metavar="URL", help="A web page's origin (https://...) that may ask."),
]
Deadline = Annotated[float, typer.Option(min=0.1, help="Seconds that a request may take.")]
MaxCharacters = Annotated[int, typer.Option(min=1, help="The most characters of a request.")]
MaxSeconds = Annotated[
    float | None, typer.Option(help="The longest sound or video; default the recipe's.")
]
MaxPages = Annotated[
    int | None, typer.Option(min=1, help="The most pages of a document; default the recipe's.")
]
SegmentWith = Annotated[
    str | None, typer.Option("--segment", help="Weights of SAM's family, for /v1/segment.")
]
RootPath = Annotated[
    str, typer.Option(help="What a proxy in front cuts from the paths: /omnimix for instance.")
]
AccessLog = Annotated[
    bool,
    typer.Option("--access-log", help="A line about each request on stderr; never what it says."),
]
Name = Annotated[
    str | None, typer.Option(help="What the model is called; default as it was named.")
]


def command(
    model: options.Model = "nano",
    host: Host = _HOME[0],
    port: Port = 7860,
    root: Root = None,
    allow_fetch: Fetching = False,
    name: Name = None,
    max_new_tokens: options.MaxNewTokens = 128,
    temperature: options.Temperature = 0.0,
    top_p: options.TopP = 1.0,
    seed: options.Seed = None,
    api_key: Keys = None,
    api_key_file: KeyFile = None,
    rate: Rate = None,
    allow_origin: Origins = None,
    allow_host: Hosts = None,
    root_path: RootPath = "",
    max_body: MaxBody = 64,
    max_items: MaxItems = 64,
    max_characters: MaxCharacters = 1_000_000,
    max_pixels: MaxPixels = None,
    max_seconds: MaxSeconds = None,
    max_pages: MaxPages = None,
    max_waiting: MaxWaiting = 32,
    deadline: Deadline = 600.0,
    grace: Grace = 120,
    segmenter: SegmentWith = None,
    access_log: AccessLog = False,
    engine: EngineName = "batched",
    cache_memory: CacheMemory = 2048,
    max_batch: MaxBatch = 32,
    prefill_chunk: PrefillChunk = 256,
    deterministic: Deterministic = False,
    device: options.Device = None,
    dtype: options.Dtype = None,
    backend: options.Backend = "torch",
    backend_arg: options.BackendArgs = None,
    weights: options.Weights = "16",
    part: options.Parts = None,
    word: options.Words = None,
    parallel: options.Parallel = None,
    quantization: options.Quantization = None,
) -> None:
    """Answer over HTTP in the words of OpenAI's API, with regions in it both ways; GET /health says that it is there.

    SIGTERM and Ctrl-C let the requests that are there come to their answers. Under torchrun the processes hold the
    model together, and the first answers.
    """
    _run(SimpleNamespace(**locals()))


def _run(asked: SimpleNamespace) -> None:
    """Load a model and serve it, as the words of the command say."""
    if asked.root is None and asked.host in _HOME:
        asked.root = Path()
    if asked.engine not in ("batched", "one"):
        raise OmnimixError(f"there is no engine {asked.engine!r}", hint="known are batched and one")
    if asked.root is not None and not asked.root.is_dir():
        raise OmnimixError(
            "there is no such folder", where=str(asked.root), hint="give --root a folder"
        )
    _check(asked)
    try:
        from omnimix.serve import running
    except ModuleNotFoundError as error:
        raise OmnimixError(
            f"the package {error.name} is missing", hint="pip install 'omnimix[serve]'"
        ) from None
    from omnimix.generate.devices import TENSOR, meet

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        asked.parallel = asked.parallel or TENSOR
    group = meet(asked.parallel, asked.quantization)
    if group.size > 1 and asked.engine == "one":
        raise OmnimixError("several processes write answers together", hint="leave --engine out")
    if group.rank:
        _follow(asked, group)
        return
    if asked.access_log:
        logging.basicConfig(format="%(asctime)s %(message)s")
        logging.getLogger("omnimix.serve").setLevel(logging.INFO)
    with contextlib.ExitStack() as held:
        with group.agreed():
            listener = held.enter_context(running.listening(asked.host, asked.port))
            settings = _settings(asked)
        _answer(asked, _opened(asked), listener, settings)


def _follow(asked: SimpleNamespace, group: ProcessGroup) -> None:
    """What a process does that is not the first: its part of the work, until the first has ended."""
    from omnimix.serve import running
    from omnimix.serve.batched import follow

    with group.agreed():  # that the first can listen
        running.deaf()
    assistant = _opened(asked)
    gc.freeze()  # as the first does
    follow(assistant, _limits(asked))


def _opened(asked: SimpleNamespace) -> Assistant:
    from omnimix.generate.opening import open_model

    places, facts = places_of(asked.part or ()), words_of(asked.word or ())
    engine = words_of(asked.backend_arg or (), "--backend-arg")
    running_on = (asked.dtype, asked.backend, asked.weights, options.note, engine)
    words = {"parts": places, "quantization": asked.quantization, **facts}
    return open_model(asked.model, asked.device, *running_on, parallel=asked.parallel, **words)


def _answer(
    asked: SimpleNamespace, opened: Assistant, listener: socket.socket, settings: Settings
) -> None:
    """Serve a model until the process is asked to end."""
    from omnimix.serve import running
    from omnimix.serve.app import create_app
    from omnimix.serve.batched import Batched
    from omnimix.serve.engine import OneAtATime, limited

    most = {name: getattr(asked, name) for name in ("max_pixels", "max_seconds", "max_pages")}
    assistant = limited(opened, **most)
    folder = Path(asked.model)
    name = asked.name or (folder.resolve().name if folder.exists() else asked.model)
    one = asked.engine == "one"
    engine = OneAtATime(assistant, name) if one else Batched(assistant, name, _limits(asked))
    app = create_app(engine, settings)
    typer.echo(
        f"{name} answers at {running.address(listener)} (POST /v1/chat/completions, "
        "POST /generate, GET /health ...)"
    )

    def lost() -> BaseException | None:
        # One process alone goes on saying what broke; several would wait for each other, and an engine in processes
        # of its own does not come back.
        several = opened.process_group.size > 1 or asked.backend == "vllm"
        return engine.broken if several and isinstance(engine, Batched) else None

    running.run(app, listener, asked.grace, asked.root_path, lost)


def _limits(asked: SimpleNamespace) -> Limits:
    from omnimix.serve.batched import limits

    return limits(asked.max_batch, asked.cache_memory, asked.prefill_chunk, asked.deterministic)


def _check(asked: SimpleNamespace) -> None:
    """Refuse words that no typer option refuses."""
    for option in ("deadline", "max_seconds"):
        value = getattr(asked, option)
        if value is not None and not 0 < value < float("inf"):
            shown = f"--{option.replace('_', '-')}"
            raise OmnimixError(f"{shown} {value:g} is no time", hint="give seconds above 0")
    own = {"cache_memory": 2048, "prefill_chunk": 256, "deterministic": False}
    for option, usual in own.items() if asked.backend == "vllm" else ():
        if getattr(asked, option) != usual:
            raise OmnimixError(
                f"--{option.replace('_', '-')} is not for vllm, which orders its requests itself",
                hint="--backend-arg gpu_memory_utilization=0.8 or max_num_batched_tokens=2048 is its word",
            )
    for origin in asked.allow_origin or ():
        if not re.fullmatch(r"https?://[\w.-]{1,253}(:\d{1,5})?", origin, re.ASCII):
            raise OmnimixError(
                f"--allow-origin {origin[:40]!r} is no origin",
                hint="write https://pages.example.org",
            )
    if asked.root_path and not re.fullmatch(r"(/[\w.~-]+)+", asked.root_path, re.ASCII):
        raise OmnimixError(
            "--root-path is no path", hint="write /omnimix, without a slash at its end"
        )


def _settings(asked: SimpleNamespace) -> Settings:
    from omnimix.generate.decoding import Options
    from omnimix.segment.base import load_segmenter
    from omnimix.serve.fetch import Fetcher
    from omnimix.serve.items import ItemReader
    from omnimix.serve.keys import gathered
    from omnimix.serve.settings import Settings

    max_bytes = asked.max_body * 1024 * 1024
    writing = ("max_new_tokens", "temperature", "top_p", "seed")
    environment = os.environ.get("OMNIMIX_API_KEY", "")
    segmenter = None if asked.segmenter is None else load_segmenter(asked.segmenter, asked.device)
    return Settings(
        items=ItemReader(asked.root, Fetcher(max_bytes) if asked.allow_fetch else None),
        options=Options(**{name: getattr(asked, name) for name in writing}),
        max_bytes=max_bytes,
        max_items=asked.max_items,
        max_waiting=asked.max_waiting,
        hosts=("localhost", socket.gethostname(), asked.host, *(asked.allow_host or ())),
        max_characters=asked.max_characters,
        deadline=asked.deadline,
        keys=gathered(asked.api_key or (), asked.api_key_file, environment),
        rate=asked.rate,
        origins=tuple(asked.allow_origin or ()),
        segmenter=segmenter,
    )
