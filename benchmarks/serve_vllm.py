"""vLLM alone, over the folder of `omnimix export --vllm`: prompts as embeddings, so many at once.

Run `python -m benchmarks.serve_vllm FOLDER PROMPTS.npz` in an environment that has vLLM; it needs nothing of omnimix. Each
line that it prints is JSON: clients, round, ids, seconds for all, seconds to the first token of each, tokens a second and
the peak of memory in MiB, of all its processes together.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

with contextlib.suppress(ModuleNotFoundError):
    import omnimix  # noqa: F401 (it cures a torchvision of another build, over which vLLM would trip)


def write(
    engine: Any, prompts: list[Any], params: Any
) -> tuple[list[list[int]], float, list[float]]:
    """Ids of each answer, seconds for all, and seconds to the first token of each."""
    begin = time.perf_counter()
    for name, prompt in enumerate(prompts):
        engine.add_request(str(name), {"type": "embeds", "prompt_embeds": prompt}, params)
    ids: list[list[int]] = [[] for _ in prompts]
    firsts = [0.0] * len(prompts)
    while engine.has_unfinished_requests():
        for out in engine.step():
            own = ids[int(out.request_id)]
            if not own:
                firsts[int(out.request_id)] = time.perf_counter() - begin
            own.extend(out.outputs[0].token_ids)
    return ids, time.perf_counter() - begin, firsts


def peak() -> int:
    """MiB at most of this process and those that it started."""
    parents: dict[int, int] = {}
    held: dict[int, int] = {}
    for place in Path("/proc").glob("[0-9]*/status"):
        try:
            words = dict(line.split(":", 1) for line in place.read_text().splitlines())
        except (OSError, ValueError):
            continue  # it has just ended
        parents[int(words["Pid"])] = int(words["PPid"])
        held[int(words["Pid"])] = int(words.get("VmHWM", "0 kB").split()[0])
    ours = {os.getpid()}
    while more := {child for child, parent in parents.items() if parent in ours} - ours:
        ours |= more
    return sum(held.get(one, 0) for one in ours) // 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", help="of `omnimix export --vllm`")
    parser.add_argument("prompts", help="an .npz of embeddings, one array a prompt")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16, 32])
    parser.add_argument(
        "--compile", action="store_true", help="let it compile, which takes minutes"
    )
    asked = parser.parse_args()
    for name, value in (("LOGGING_STREAM", "ext://sys.stderr"), ("LOGGING_LEVEL", "ERROR")):
        os.environ.setdefault(f"VLLM_{name}", value)
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    import torch
    from vllm import EngineArgs, LLMEngine, SamplingParams
    from vllm.sampling_params import RequestOutputKind

    held = np.load(asked.prompts)
    prompts = [torch.from_numpy(held[name]) for name in held.files]
    own = {"dtype": "float32", "enable_prompt_embeds": True, "skip_tokenizer_init": True}
    # Each round shall read its prompts, as the others do.
    own |= {
        "max_model_len": max(map(len, prompts)) + asked.tokens,
        "enforce_eager": not asked.compile,
        "enable_prefix_caching": False,
    }
    engine = LLMEngine.from_engine_args(EngineArgs(asked.folder, **own))
    params = SamplingParams(
        temperature=0,
        max_tokens=asked.tokens,
        ignore_eos=True,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
    )
    write(engine, prompts[:1], params)
    for number in range(asked.rounds):
        for clients in asked.clients:
            ids, seconds, firsts = write(engine, prompts[:clients], params)
            told = {"clients": clients, "round": number, "ids": ids, "seconds": seconds}
            told |= {"firsts": firsts, "tokens_per_second": sum(map(len, ids)) / seconds}
            print(json.dumps(told | {"peak": peak()}), flush=True)


if __name__ == "__main__":
    main()
