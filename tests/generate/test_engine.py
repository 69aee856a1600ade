"""Many answers at once: each is what it is alone, whoever joins, leaves or fails beside it."""

from __future__ import annotations

import random
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import TINY
from tests.models import random_model

from omnimix.compose import recipe as recipes
from omnimix.compose.model import MultimodalLM
from omnimix.compose.processor import Processor
from omnimix.compose.sequence import Sequence as Woven
from omnimix.errors import OmnimixError
from omnimix.generate.assistant import Assistant
from omnimix.generate.decoding import request
from omnimix.generate.engine.core import Core, Generation, Limits
from omnimix.generate.engine.prefixes import BLOCK
from omnimix.generate.engine.prompts import prompt
from omnimix.generate.engine.runners import OneByOne, Together
from omnimix.generate.engine.sampling import Sampler
from omnimix.generate.options import Options
from omnimix.types import Sample
from omnimix_scenes import Scenes

WINDOW = "sliding_window=6"
KINDS: dict[str, tuple[str, ...]] = {
    "llama": ("num_key_value_heads=2",),
    "qwen2": ("num_key_value_heads=2", WINDOW, "use_sliding_window=true", "max_window_layers=1"),
    "phi3": (WINDOW, "pad_token_id=0"),
    "mistral": (WINDOW,),
    "gemma2": (WINDOW, "head_dim=8", "num_key_value_heads=1"),
    "gemma3_text": (WINDOW, "head_dim=8"),
    "gpt_oss": (WINDOW, "head_dim=8", "num_local_experts=4", "num_experts_per_tok=2"),
    "lfm2": ("layer_types=[conv, full_attention]",),
}
"""Language models, and words that make them tiny, with windows that bite."""
LONG = Options(max_new_tokens=10, stop_strings=())


@pytest.fixture(scope="module")
def questions() -> list[Sample]:
    scenes = Scenes(1000, "heldout")
    tasks = ("describe", "find", "compare", "attribute", "list")
    made = [scenes.question(task, i % 3) for i, task in enumerate(tasks * 2)]
    return [Sample(sample.turns[:1], sample.id) for sample in made]


@pytest.fixture(scope="module")
def assistant(tiny_model: MultimodalLM, tiny_processor: Processor) -> Assistant:
    return Assistant(tiny_model, tiny_processor)


def asked(assistant: Assistant, woven: Woven, options: Options = LONG) -> Generation:
    given = prompt(woven, assistant.model)
    return request(given, assistant.model, options, assistant.endings(options))


def of_kind(kind: str, processor: Processor) -> Assistant:
    """The tiny recipe over another language model, whose numbers lie far apart."""
    own = (f"model_type={kind}", "num_hidden_layers=2", *KINDS[kind])
    words = [f"language.config.{word}" for word in own]
    # Larger weights would take every logit of the soft-capped one to the cap.
    std = 0.1 if kind == "gemma2" else 0.4
    model = random_model(recipes.load("nano", (*TINY, *words)), std)
    return Assistant(model, processor)


def by_generate(assistant: Assistant, woven: Woven) -> list[int]:
    """What transformers' own loop writes; the proof of everything here."""
    batch = assistant.batch([woven])
    ends = sorted(assistant.endings(LONG).ends)
    config = LONG.config(ends, assistant.processor.weave.tokenizer.pad)
    with torch.inference_mode():
        ids = assistant.model.generate(**batch.inputs(), generation_config=config)
    written: list[int] = ids[0, batch.input_ids.shape[1] :].tolist()
    return written


@pytest.mark.parametrize("kind", KINDS)
def test_mixes_and_orders_change_no_answer(
    kind: str, tiny_processor: Processor, questions: list[Sample]
) -> None:
    assistant = of_kind(kind, tiny_processor)
    woven = [assistant.weave(question, LONG) for question in questions[:6]]
    wanted = [by_generate(assistant, one) for one in woven]
    assert len({tuple(ids) for ids in wanted}) > 1, "the answers should tell prompts apart"
    chance = random.Random(kind)
    for chunk, rows in ((5, 4), (64, 2)):
        core = Core(
            assistant.model,
            Limits(rows, prefill_chunk=chunk, prefix_memory=2**24, item_memory=2**20),
        )
        order = [*range(len(woven))] * 2
        chance.shuffle(order)
        requests = [(i, asked(assistant, woven[i])) for i in order]
        waiting = list(requests)
        while waiting or core.waiting or core.running:
            for _ in range(chance.randrange(3)):
                if waiting:
                    core.add(waiting.pop(0)[1])
            core.step()
        assert [one.ids for _, one in requests] == [wanted[i] for i, _ in requests]
        assert core.items.hits and core.held == 0


def test_an_answer_can_be_the_same_to_its_last_bit_in_any_company(
    tiny_processor: Processor, questions: list[Sample]
) -> None:
    assistant = of_kind("llama", tiny_processor)
    words = Options(max_new_tokens=6, stop_strings=(), logprobs=3)
    woven = [assistant.weave(question, words) for question in questions]

    def written(together: int, **limits: Any) -> list[Any]:
        found = []
        for first in range(0, len(woven), together):
            some = [asked(assistant, one, words) for one in woven[first : first + together]]
            core = Core(assistant.model, Limits(prefill_chunk=7, prefix_memory=2**20, **limits))
            core.run(some)
            found += [(one.ids, one.likely) for one in some]
        return found

    alone = written(1, deterministic=True)
    assert written(len(woven), deterministic=True) == written(3, deterministic=True) == alone
    assert written(len(woven)) != written(1), "these numbers should tell company"


def test_which_models_run_together(tiny_processor: Processor) -> None:
    for kind, wanted in (("gemma3_text", Together), ("lfm2", OneByOne)):
        assert isinstance(of_kind(kind, tiny_processor).decoder.runner, wanted)


def test_who_leaves_fails_or_comes_too_late_changes_no_answer(
    assistant: Assistant, questions: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    woven = [assistant.weave(question, LONG) for question in questions[:5]]
    wanted = [one.ids for one in assistant.decoder.write(woven, LONG, assistant.endings(LONG))]
    core = Core(assistant.model, Limits(prefill_chunk=16))
    requests = [asked(assistant, one) for one in woven]
    monkeypatch.setattr(requests[1].sampler, "note", _broken)
    requests[2].deadline = time.monotonic() - 1
    for one in requests:
        core.add(one)
    for _ in range(3):
        core.step()
    requests[3].cancel()
    while core.step():
        pass
    assert [one.ids for i, one in enumerate(requests) if i in (0, 4)] == [wanted[0], wanted[4]]
    assert isinstance(requests[1].error, ZeroDivisionError)
    assert isinstance(requests[2].error, OmnimixError) and not requests[2].ids
    assert (
        requests[3].reason == "cancelled" and requests[3].ids == wanted[3][: len(requests[3].ids)]
    )


MIXED = [
    LONG,
    Options(max_new_tokens=3, stop_strings=()),
    LONG.but({"temperature": 1.1, "seed": 7, "top_p": 0.9}),
    LONG.but({"repetition_penalty": 1.3, "min_new_tokens": 4}),
    LONG.but({"temperature": 0.7, "seed": 2, "top_k": 20, "frequency_penalty": 0.5}),
]


@pytest.mark.parametrize("seed", range(3))
def test_of_32_that_come_at_random_each_is_what_it_is_alone(
    seed: int, assistant: Assistant, questions: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(seed)
    woven = [assistant.weave(question, LONG) for question in questions]
    cases = [(chance.randrange(len(woven)), chance.choice(MIXED)) for _ in range(32)]
    alone: dict[Any, list[int]] = {}
    for i, words in cases:
        if (i, id(words)) not in alone:
            (one,) = assistant.decoder.write([woven[i]], words, assistant.endings(words))
            alone[i, id(words)] = one.ids
    rows, chunk = chance.choice((3, 8, 32)), chance.choice((4, 32, 256))
    core = Core(assistant.model, Limits(rows, None, chunk, prefix_memory=2**20, item_memory=2**20))
    requests = [asked(assistant, woven[i], words) for i, words in cases]
    leaving, failing = requests[::6], requests[3::7]
    for one in failing:
        monkeypatch.setattr(one.sampler, "note", _broken)
    waiting = list(requests)
    while waiting or core.waiting or core.running:
        for _ in range(chance.randrange(4)):
            if waiting:
                core.add(waiting.pop(0))
        core.step()
        if chance.random() < 0.5:
            chance.choice(leaving).cancel()
    for one, (i, words) in zip(requests, cases, strict=True):
        wanted = alone[i, id(words)]
        if one in failing and one.error is not None:
            assert isinstance(one.error, ZeroDivisionError)
        elif one.reason == "cancelled":
            assert one in leaving and one.ids == wanted[: len(one.ids)]
        else:
            assert one.ids == wanted
    assert sum(one.reason in ("stop", "length") for one in requests) > 16 and core.held == 0


def _broken(_: int) -> None:
    raise ZeroDivisionError


def test_a_pass_that_fails_is_taken_again_one_by_one(
    assistant: Assistant, questions: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    woven = [assistant.weave(question, LONG) for question in questions[:3]]
    wanted = [one.ids for one in assistant.decoder.write(woven, LONG, assistant.endings(LONG))]
    core = Core(assistant.model)
    whole, bad = core.runner.run, len(woven[1])

    def run(texts: Any, embeddings: Any) -> torch.Tensor:
        if any(len(one) == bad for one in embeddings):
            raise MemoryError("too much")
        return whole(texts, embeddings)

    monkeypatch.setattr(core.runner, "run", run)
    requests = [asked(assistant, one) for one in woven]
    for one in requests:
        core.add(one)
    while core.step():
        pass
    alike = [len(one) == bad for one in woven]
    assert [one.error is not None for one in requests] == alike
    for one, ids, failed in zip(requests, wanted, alike, strict=True):
        assert failed or one.ids == ids


def test_memory_admits_and_refuses(assistant: Assistant, questions: list[Sample]) -> None:
    woven = [assistant.weave(question, LONG) for question in questions[:4]]
    requests = [asked(assistant, one) for one in woven]
    least = max(one.room for one in requests)
    bytes_each = Core(assistant.model).runner.token_bytes
    core = Core(assistant.model, Limits(cache_memory=least * bytes_each))
    for one in requests:
        core.add(one)
    while core.step():
        assert core.held <= least * bytes_each
    assert all(one.reason for one in requests)
    with pytest.raises(OmnimixError, match=rf"{least} tokens take {least * bytes_each} bytes"):
        Core(assistant.model, Limits(cache_memory=least * bytes_each - 1)).add(
            next(one for one in map(lambda w: asked(assistant, w), woven) if one.room == least)
        )
    with pytest.raises(OmnimixError, match="max_batch is 0"):
        Limits(max_batch=0)


def test_a_second_question_encodes_nothing_and_reads_its_own_words(
    assistant: Assistant, questions: list[Sample]
) -> None:
    first = assistant.weave(questions[0], LONG)
    core = Core(assistant.model, Limits(prefix_memory=2**24, item_memory=2**24))
    core.run([asked(assistant, first)])
    encoded, read = core.items.misses, core.prefixes.misses
    again = asked(assistant, first)
    core.run([again])
    assert core.items.misses == encoded and core.items.hits == encoded
    assert core.prefixes.misses - read <= BLOCK + 1
    assert again.ids == assistant.decoder.write([first], LONG, assistant.endings(LONG))[0].ids


def test_a_second_turn_reads_its_own_words(assistant: Assistant, questions: list[Sample]) -> None:
    options = Options(max_new_tokens=40, stop_strings=(), min_new_tokens=40)
    first = assistant.weave(questions[0], options)
    core = Core(assistant.model, Limits(prefix_memory=2**24, item_memory=2**24))
    one = asked(assistant, first, options)
    core.run([one])
    written = np.array(one.ids)
    second = replace(
        first,
        ids=np.concatenate([first.ids, written, first.ids[-3:]]),
        labels=np.concatenate([first.labels, written, first.ids[-3:]]),
        owner=np.concatenate([first.owner, np.zeros(len(written) + 3, dtype=np.int64)]),
    )
    before = core.prefixes.misses
    again = asked(assistant, second)
    core.run([again])
    assert core.prefixes.misses - before <= BLOCK + 3 + 1
    assert again.ids == assistant.decoder.write([second], LONG, assistant.endings(LONG))[0].ids


def test_caches_keep_to_their_bytes(assistant: Assistant, questions: list[Sample]) -> None:
    limits = Limits(prefix_memory=4 * BLOCK * assistant.decoder.runner.token_bytes, item_memory=1)
    core = Core(assistant.model, limits)
    woven = [assistant.weave(question, LONG) for question in questions[:4]]
    core.run([asked(assistant, one) for one in woven])
    assert 0 < core.prefixes.bytes <= limits.prefix_memory and core.items.bytes == 0
    # What is left is the beginning of a prompt, which is found again.
    core.run([asked(assistant, woven[-1])])
    assert core.prefixes.hits >= BLOCK


@pytest.mark.parametrize(
    "words",
    [
        {"temperature": 0.9},
        {"temperature": 1.3, "top_k": 9, "top_p": 0.9, "repetition_penalty": 1.3},
        {"temperature": 0.8, "presence_penalty": 1.5, "frequency_penalty": -0.5},
    ],
)
def test_a_seed_gives_its_answer_whatever_is_asked_beside_it(
    words: dict[str, float], assistant: Assistant, questions: list[Sample]
) -> None:
    options = LONG.but({"seed": 4, **words})
    alone = [assistant.reply(question, options) for question in questions[:4]]
    assert assistant.reply_many(questions[:4], options=options) == alone
    assert len({one.ids for one in alone}) > 1
    assert assistant.reply(questions[0], replace(options, seed=5)).ids != alone[0].ids


def logits(*values: float) -> torch.Tensor:
    return torch.tensor(values)


def chosen(
    options: Options,
    numbers: torch.Tensor,
    written: tuple[int, ...] = (),
    prompt: tuple[int, ...] = (),
) -> int:
    sampler = Sampler(options, torch.tensor(prompt, dtype=torch.long), [3], len(numbers))
    for token in written:
        sampler.note(token)
    return sampler.choose(numbers)[0]


def test_words_of_the_choice() -> None:
    numbers = logits(1.0, 3.0, 2.9, 4.0)
    assert chosen(Options(), numbers) == 3
    assert chosen(Options(min_new_tokens=1), numbers) == 1
    assert chosen(Options(min_new_tokens=1), numbers, (0,)) == 3
    assert chosen(Options(logit_bias={3: -100.0, 0: 3.0}), numbers) == 0
    assert chosen(Options(presence_penalty=1.5), numbers, (3,)) == 1
    assert chosen(Options(frequency_penalty=0.6), numbers, (3,)) == 3
    assert chosen(Options(frequency_penalty=0.6), numbers, (3, 3)) == 1
    assert chosen(Options(repetition_penalty=1.4), numbers, (3,)) == 1
    assert chosen(Options(repetition_penalty=1.4), numbers, prompt=(3, 1)) == 2
    assert {chosen(Options(temperature=9.0, top_k=2, seed=i), numbers) for i in range(30)} == {1, 3}
    assert {chosen(Options(temperature=1.0, top_p=0.5, seed=i), numbers) for i in range(9)} == {3}
    with pytest.raises(OmnimixError, match="token 4, and the model has 4"):
        chosen(Options(logit_bias={4: 1.0}), numbers)


def test_likelihoods_are_the_models_own(assistant: Assistant, questions: list[Sample]) -> None:
    answer = assistant.reply(questions[0], LONG.but({"logprobs": 3}))
    assert len(answer.logprobs) == answer.tokens
    for one in answer.logprobs:
        assert len(one.top) == 3 and one.top[0] == (one.token, one.logprob)
    woven = assistant.weave(questions[0], LONG)
    assert answer.prompt_tokens == len(woven)
    with torch.inference_mode():
        first = assistant.model(**assistant.batch([woven]).inputs()).logits[0, -1].log_softmax(-1)
    assert answer.logprobs[0].logprob == pytest.approx(float(first[answer.ids[0]]), abs=1e-4)
    assert assistant.reply(questions[0], LONG).logprobs == ()
