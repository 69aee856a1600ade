"""vLLM behind the engine: it runs the language model, in a process beside this one or on a server of its own, and gets
prompts as embeddings.

Encoders, connectors and the table of embeddings stay in torch; the rest of torch's language model is given up once vLLM's
answers were compared with it.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from omnimix import _transformers, cache
from omnimix.compose.model import MultimodalLM
from omnimix.disk import writing
from omnimix.errors import OmnimixError
from omnimix.generate.engine.backends import BOUNDS, Measured, fingerprint, probes
from omnimix.generate.engine.core import Generation, astray
from omnimix.generate.engine.hosted import Host, Hosted, News
from omnimix.generate.engine.sampling import Likely, Sampler
from omnimix.generate.engine.vllm_server import VllmServer, ended, sampling
from omnimix.generate.options import Options
from omnimix.registry import did_you_mean

OURS = ("model", "tokenizer", "dtype", "enable_prompt_embeds", "skip_tokenizer_init")
"""Words of vLLM's that are said here."""
NARROW = 0.1
"""How far logits may lie from torch's, of the largest, in types of 16 bits."""
ENVIRONMENT = {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",  # answers go to stdout
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # torch has run here, and threads do not survive a fork
}


def made(model: MultimodalLM, words: Mapping[str, Any], say: Callable[[str], None]) -> Hosted:
    """vLLM over a model's language model, proven.

    Args:
        words: of vLLM's `EngineArgs`; or `url` of a server of vLLM's that runs elsewhere.
        say: is told how far it lies from torch.

    Raises:
        OmnimixError: a model or words that do not fit; other logits than torch's.
    """
    language, words = model.language, dict(words)
    if model.recipe.language.head is not None:
        raise OmnimixError(
            "the output head has a bias or rows without logits, which vLLM does not know",
            where="language.head",
            hint="leave --backend out",
        )
    texts = [one.to(model.device, language.dtype) for one in probes(model)]
    with torch.inference_mode():
        wanted = [language(inputs_embeds=one[None]).logits[0, -1].float().cpu() for one in texts]
    if not all(bool(one.isfinite().all()) for one in wanted):
        raise astray(model)
    url = words.pop("url", None)
    if url is None:
        folder = _folder(model)
        spare(model)
        host: Host = Vllm(folder, model, words)
    else:
        host = VllmServer(str(url), words)
        spare(model)
    run = Hosted(model, host)
    found = _measured(run, texts, wanted)
    bound = BOUNDS["16"] if language.dtype == torch.float32 else NARROW
    if "quantization" in words:
        bound = BOUNDS["int8"]
    if not found.error <= bound:
        raise OmnimixError(
            f"vLLM gives other answers than torch: {found}, where {bound:.0e} is the most",
            hint="leave --backend out"
            if url is None
            else "start it over the folder that `omnimix export --vllm` writes of this model",
        )
    say(f"vLLM: {found}")
    return run


def _measured(run: Hosted, texts: list[Tensor], wanted: list[Tensor]) -> Measured:
    options = Options(max_new_tokens=1, logprobs=20)
    asked = []
    for text in texts:
        sampler = Sampler(options, torch.zeros(0, dtype=torch.long), (), run.model.vocab_size)
        asked.append(Generation(text, sampler, 1, lambda _: False))
    run.run(asked)
    away, alike = [], 0
    for one, logits in zip(asked, wanted, strict=True):
        ids, theirs = zip(*one.likely[0].top, strict=True)
        ours = logits.log_softmax(-1)[torch.tensor(ids).clamp(max=len(logits) - 1)]
        away.append((ours - torch.tensor(theirs)).abs().max() / logits.abs().max())
        alike += one.ids[0] == int(logits.argmax())
    return Measured(float(torch.stack(away).max()), alike / len(texts))  # NaN stays NaN


def _folder(model: MultimodalLM) -> Path:
    """The language model as a plain folder, written unless it was before."""
    place = cache.folder("vllm") / fingerprint(model, "16", "folder")
    if not place.is_dir():
        with writing(place):
            place.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=place.parent) as near:
                draft = Path(near) / "model"
                with _transformers.quiet():
                    model.language.save_pretrained(draft)
                if not place.exists():
                    draft.replace(place)
    return place


def spare(model: MultimodalLM) -> None:
    """Give up the weights that vLLM holds itself, all but the table of embeddings."""
    table: Any = model.get_input_embeddings().weight
    for module in model.language.modules():
        for name, weight in module._parameters.items():
            if weight is not None and weight is not table:
                module._parameters[name] = nn.Parameter(weight.detach().to("meta"), False)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class Vllm:
    """vLLM's engine, which runs in processes beside this one.

    Args:
        folder: of the language model.
        words: of vLLM's `EngineArgs`.

    Raises:
        OmnimixError: a word that is not there, or an engine that does not start.
    """

    def __init__(self, folder: Path, model: MultimodalLM, words: Mapping[str, Any]) -> None:
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        import vllm
        from vllm.sampling_params import RequestOutputKind

        known = [one.name for one in dataclasses.fields(vllm.EngineArgs) if one.name not in OURS]
        for word in words:
            if word not in known:
                hint = "omnimix says it" if word in OURS else did_you_mean(word, known)
                raise OmnimixError(f"--backend-arg {word} is no word of vLLM's", hint=hint)
        self.dtype = model.language.dtype
        own = {"max_model_len": model.context, "disable_log_stats": True, **words}
        said = dict.fromkeys(OURS[3:], True) | {"dtype": str(self.dtype).removeprefix("torch.")}
        try:
            args = vllm.EngineArgs(str(folder), **said, **own)
            self._engine = vllm.LLMEngine.from_engine_args(args)
        except Exception as error:  # of any kind, and from processes of its own
            raise OmnimixError(
                f"vLLM does not start: {error}",
                hint="the lines above say why; --backend-arg NAME=VALUE sets words of vLLM's EngineArgs",
            ) from error
        self._params: Any = vllm.SamplingParams
        self._pieces = RequestOutputKind.DELTA
        self._count = itertools.count()
        self._asked: dict[str, Generation] = {}

    def start(self, request: Generation, embeddings: Tensor) -> None:
        name = str(next(self._count))
        own = embeddings.to("cpu", self.dtype).contiguous()
        prompt: dict[str, Any] = {"type": "embeds", "prompt_embeds": own}
        seen = request.sampler.prompt
        if seen is not None and len(seen):
            # Its penalty counts the tokens of texts; holes repeat one, and all are read as embeddings.
            ids = [*seen.tolist(), *[int(seen[0])] * (len(own) - len(seen))]
            prompt |= {"prompt_token_ids": ids, "is_token_ids": [False] * len(own)}
        try:
            params = self._params(**sampling(request), detokenize=False, output_kind=self._pieces)
            self._engine.add_request(name, prompt, params)
        except ValueError as error:
            raise OmnimixError(f"vLLM refuses it: {error}") from None
        self._asked[name] = request

    def stop(self, request: Generation) -> None:
        name = next((name for name, one in self._asked.items() if one is request), None)
        if name is not None:
            del self._asked[name]
            self._engine.abort_request([name])

    def news(self) -> Iterator[News]:
        for out in self._engine.step() if self._engine.has_unfinished_requests() else ():
            request = self._asked.get(out.request_id)
            if request is None:
                continue
            if out.finished:
                del self._asked[out.request_id]
            one, count = out.outputs[0], request.sampler.options.logprobs
            ids, likely = [*one.token_ids], []
            error: OmnimixError | None = ended(one.finish_reason) if out.finished else None
            try:
                if one.logprobs and count is not None:
                    likely = [_likely(*pair, count) for pair in zip(ids, one.logprobs, strict=True)]
            except (ValueError, KeyError) as wrong:  # the others' outputs of this step stand
                error = OmnimixError(f"vLLM gives logprobs that do not fit its tokens ({wrong})")
            yield News(request, ids, likely, out.finished, error)


def _likely(token: int, row: Mapping[int, Any], count: int) -> Likely:
    best = sorted(((i, one.logprob) for i, one in row.items()), key=lambda pair: -pair[1])
    return Likely(row[token].logprob, tuple(best[:count]))
