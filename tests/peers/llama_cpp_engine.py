"""llama.cpp behind the engine (`--backend llama.cpp`): greedy ids from our embeddings beside torch's, while texts join and
leave, and from prompts whose beginnings were read before.

Run `python -m tests.peers.llama_cpp_engine`. The file holds float16, so that near ties may fall otherwise.
"""

from __future__ import annotations

import os
import random
import tempfile
from typing import Any

import numpy as np
import torch

from omnimix import cache
from omnimix.convert import exporting
from omnimix.generate.assistant import Assistant
from omnimix.generate.engine import backends
from omnimix.generate.engine.core import Core, Generation, Limits
from omnimix.generate.engine.prefixes import BLOCK
from omnimix.generate.engine.prompts import NamedPrompt
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
    wide = core.runner.open(2000)  # the context grows while texts run
    while core.step():
        pass
    del wide
    run = backends.runner_of("llama.cpp", "16", print)(model)
    taken_apart(made, run)
    begin_again(made, run)
    engines.told([wanted[i] for i in order], [one.ids for one in requests])


def taken_apart(made: Assistant, run: Any) -> None:
    """A text that begins with what was cut from another has, to the last bit, the logits of one that read it itself."""
    table, chance = made.model.get_input_embeddings(), torch.Generator().manual_seed(3)
    others: list[Any] = []
    with torch.inference_mode():
        for number in range(60):
            own = table(torch.randint(4, 1024, (70,), generator=chance))
            read, begun = run.open(70), run.open(70)
            run.run([read], [own[:48]])
            for start in (0, 16, 32):
                run.put(begun, run.cut(read, start, start + 16))
            wanted, found = (run.run([one], [own[48:]]) for one in (read, begun))
            assert begun.length == read.length and torch.equal(found, wanted)
            # Some stay, so that free cells lie apart and the context grows.
            others = [*others[-20:], *([read] if number % 3 else [begun, read])]


def begin_again(made: Assistant, run: Any) -> None:
    """Prompts share beginnings, of which not all can be kept; every token is torch's likeliest, or nearly."""
    model, options, chance = made.model, Options(max_new_tokens=exporting.WRITTEN), random.Random(1)
    stems = [[chance.randrange(4, 1024) for _ in range(50)] for _ in range(3)]
    texts = [stem + stem[i : 3 * i + 2] for i in range(1, 9) for stem in stems]
    chance.shuffle(texts)
    core = Core(model, Limits(3, prefill_chunk=21, prefix_memory=9 * BLOCK * run.token_bytes), run)
    requests = []
    for text in texts:
        ids = np.array(text)
        names = np.stack([ids, 0 * ids, 0 * ids], axis=1)
        sampler = Sampler(options, torch.zeros(0), (), model.vocab_size)
        prompt = NamedPrompt(ids, 0 * ids, names=names)
        requests.append(Generation(prompt, sampler, options.max_new_tokens, lambda _: False))
        core.add(requests[-1])
        for _ in range(chance.randrange(4)):
            core.step()
    while core.step():
        pass
    known = core.prefixes
    print(f"beginnings: {known.hits} tokens at hand, {known.misses} read")
    assert known.hits > len(texts) * BLOCK and known.bytes <= known.most
    for text, one in zip(texts, requests, strict=True):
        with torch.inference_mode():
            logits = model.language(torch.tensor([[*text, *one.ids[:-1]]])).logits[
                0, len(text) - 1 :
            ]
        behind = logits.amax(-1) - logits.gather(1, torch.tensor(one.ids)[:, None])[:, 0]
        assert float(behind.max()) < backends.BOUNDS["16"] * float(logits.abs().max())


if __name__ == "__main__":
    engines.look("llama_cpp", "llama-cpp-python")
    with tempfile.TemporaryDirectory() as folder:
        os.environ[cache.MOVED] = folder
        main()
