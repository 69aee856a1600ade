"""llama.cpp behind the engine (`--backend llama.cpp`): greedy ids from our embeddings beside torch's, while texts join and
leave.

Run `python -m tests.peers.llama_cpp_engine`. The file holds float16, so that near ties may fall otherwise.
"""

from __future__ import annotations

import os
import random
import tempfile

import torch

from omnimix import cache
from omnimix.convert import exporting
from omnimix.generate.engine import backends
from omnimix.generate.engine.core import Core, Generation, Limits
from omnimix.generate.engine.sampling import Sampler
from omnimix.generate.options import Options
from tests.peers import engines


def main() -> None:
    made = engines.assistant()
    model, options = made.model, Options(max_new_tokens=exporting.WRITTEN)
    given = [one[0] for one in exporting.probes(model.language)]
    wanted = [exporting.greedy(model.language, one[None]) for one in given]
    for weights in ("int4", "int8"):
        backends.runner_of("llama.cpp", weights, print)(model)  # type: ignore[arg-type]
    core = Core(
        model, Limits(3, prefill_chunk=5), backends.runner_of("llama.cpp", "16", print)(model)
    )
    order = [*range(len(given))] * 6
    random.Random(0).shuffle(order)
    requests = []
    for i in order:
        sampler = Sampler(options, torch.zeros(0), (), model.vocab_size)
        requests.append(Generation(given[i], sampler, options.max_new_tokens, lambda _: False))
        core.add(requests[-1])
        core.step()
    while core.step():
        pass
    engines.told([wanted[i] for i in order], [one.ids for one in requests])


if __name__ == "__main__":
    engines.look("llama_cpp", "llama-cpp-python")
    with tempfile.TemporaryDirectory() as folder:
        os.environ[cache.MOVED] = folder
        main()
