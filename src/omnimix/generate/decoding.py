"""Tokens out: the one place where answers are written, alone, several at once, or token after token."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from omnimix.compose.batch import Batch
from omnimix.compose.model import MultimodalLM
from omnimix.compose.sequence import Sequence as Woven
from omnimix.generate.engine.core import Core, Generation, Limits
from omnimix.generate.engine.hosted import Hosted
from omnimix.generate.engine.prompts import NamedPrompt, prompt
from omnimix.generate.engine.runners import Runner, runner
from omnimix.generate.engine.sampling import Sampler
from omnimix.generate.options import Options
from omnimix.generate.stopping import Endings
from omnimix.parallel.process_group import ProcessGroup

__all__ = ["Decoder", "Options", "fingerprint", "request"]

ITEMS = 2**28
"""Bytes of encoded items that are kept while many answers are written."""


def request(
    given: NamedPrompt,
    model: MultimodalLM,
    options: Options,
    endings: Endings,
    seed: int | None = None,
) -> Generation:
    """An answer to a prompt, asked for.

    Args:
        seed: of its chance, where not the options'.

    Raises:
        OmnimixError: a bias for a token that the model does not have.
    """
    read = torch.from_numpy(given.ids[given.owner == 0])
    sampler = Sampler(options, read, sorted(endings.ends), model.vocab_size, seed)
    return Generation(given, sampler, options.max_new_tokens, endings)


@dataclass
class Decoder:
    """Writes tokens behind prompts; every answer of every face comes from here.

    Attributes:
        process_group: the processes that share the model.
        make: what makes a runner of the model, or another engine over it; torch's runner where nothing else is said.
        engine: in words, what runs the model in torch's place; whoever keeps answers keeps it beside them.
        given_up: the fingerprint of the weights, where that engine took torch's copy of them.
    """

    model: MultimodalLM
    process_group: ProcessGroup
    make: Callable[[MultimodalLM], Runner | Hosted] = runner
    engine: str = ""
    given_up: str = ""
    _runner: tuple[object, Runner | Hosted] | None = field(default=None, repr=False)

    @property
    def runner(self) -> Runner | Hosted:
        """What runs the model, as it is held now."""
        weight: Any = self.model.get_input_embeddings().weight
        held = (self.model.language, weight.dtype, weight.device, self.make)
        if self._runner is None or self._runner[0] != held:
            self._runner = held, self.make(self.model)
        return self._runner[1]

    def core(self, limits: Limits) -> Core:
        """What writes answers, within limits."""
        run = self.runner
        if isinstance(run, Hosted):
            return run.within(limits)
        return Core(self.model, limits, run, self.process_group)

    def write(
        self, woven: Sequence[Woven], options: Options, endings: Endings, batch_size: int = 32
    ) -> list[Generation]:
        """What was written behind each prompt.

        Args:
            batch_size: most that are written at once.
        """
        core, requests = self._begin(woven, options, endings, batch_size)
        with self.process_group.together():
            core.run(requests)
        return requests

    def tokens(self, woven: Woven, options: Options, endings: Endings) -> Iterator[int]:
        """Token after token behind one prompt; closing the iterator ends the writing."""
        core, (one,) = self._begin([woven], options, endings, 1)
        group, given = self.process_group, 0
        core.add(one)
        try:
            while True:
                with group.together():
                    core.step()
                    if one.error is not None:
                        raise one.error
                yield from one.ids[given:]
                given = len(one.ids)
                # A caller may end the writing on one rank; the others must not wait for its next token.
                if one.over or group.any(False):
                    return
        except GeneratorExit:
            if not one.over:
                group.any(True)
            raise
        finally:
            one.cancel()
            core.run(())

    def _begin(
        self, woven: Sequence[Woven], options: Options, endings: Endings, batch_size: int
    ) -> tuple[Core, list[Generation]]:
        prompts = [prompt(one, self.model) for one in woven]
        seeds: list[int | None] = [None] * len(prompts)
        shared = self.process_group.size > 1
        if shared:
            # Ranks that were asked differently would wait for each other for ever in the first layer.
            names = hashlib.sha256()
            for one in prompts:
                names.update(b"" if one.names is None else one.names.tobytes())
            self.process_group.same("input", names.hexdigest())
            if options.temperature > 0:
                seed = self.process_group.seed(options.seed) or 0
                apart = options.seed is None
                seeds = [seed + i * apart for i in range(len(prompts))]
        with self.process_group.together():
            limits = Limits(max_batch=max(batch_size, 1), item_memory=ITEMS)
            core = self.core(limits)
        asked = zip(prompts, seeds, strict=True)
        return core, [request(one, self.model, options, endings, seed) for one, seed in asked]


def fingerprint(batch: Batch) -> str:
    """What a batch holds, in short: equal on ranks that were asked the same."""
    digest = hashlib.sha256(str(batch.input_ids.tolist()).encode())
    for name in sorted(batch["items"]):
        for tensor in batch["items"][name].tensors():
            digest.update(name.encode())
            digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
