"""SPHINX as its users know it: `from_pretrained`, `generate_response`, streaming, scores of options.

    >>> # model = SphinxModel.from_pretrained("SPHINX-1k")
    >>> # model.generate_response([["What is in the picture?", None]], image)

The rules stand in golden/specs/sphinx.md section 6; what a call leaves out has the reference's default.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from omnimix.compose.batch import Batch
from omnimix.compose.sequence import IGNORE, Sequence as Woven
from omnimix.errors import ContextError, SampleError
from omnimix.generate.assistant import Assistant, load
from omnimix.generate.decoding import Options
from omnimix.generate.questions import Conversation, as_media
from omnimix.generate.stopping import Endings
from omnimix.language.tokenizer import Tokenizer
from omnimix.types import Part, Sample, Turn

Qas = Sequence[Sequence[str | None]]
"""Questions with their answers; the last answer is None."""

HELD = 4
"""Characters that a page holds back while an answer grows, since they may begin the end signal."""


@dataclass(frozen=True)
class Score:
    """How likely an option is as the answer.

    Attributes:
        log_likelihood: summed over its tokens.
        mean_nll: the mean of its negative (the reference calls it "ppl").
        greedy: whether greedy writing would give just it.
    """

    log_likelihood: float
    mean_nll: float
    greedy: bool


class SphinxModel(Assistant):
    """A model of the SPHINX family behind the face of the reference's `SPHINXModel`."""

    @classmethod
    def from_pretrained(
        cls,
        pretrained_path: str | Path | Sequence[str | Path],
        llama_type: str | None = None,
        llama_config: str | Path | None = None,
        tokenizer_path: str | Path | None = None,
        max_seq_len: int = 4096,
        dtype: torch.dtype | None = None,
        device: str | None = None,
        **words: Any,
    ) -> SphinxModel:
        """Open one folder, or several of which later ones replace weights of earlier ones.

        Args:
            llama_type, llama_config, tokenizer_path: in place of what is found in the folders.
            max_seq_len: most positions of a sequence, the picture's included.
            words: further parts of the family, see `omnimix.families.sphinx.reader`; `parallel` and `quantization`
                of `omnimix.load`.

        Raises:
            CheckpointError: what cannot be found or does not fit.
        """
        paths = [pretrained_path] if isinstance(pretrained_path, str | Path) else pretrained_path
        parts = {"config": llama_config, "tokenizer": tokenizer_path}
        said: dict[str, Any] = {"llama_type": llama_type, "over": list(paths[1:]) or None}
        found = load(
            paths[0],
            device,
            dtype,
            {name: place for name, place in parts.items() if place is not None},
            max_seq_len=max_seq_len,
            **{name: value for name, value in said.items() if value is not None},
            **words,
        )
        return cls(found.model, found.processor, found.process_group)

    def generate_response(
        self,
        qas: Qas,
        image: Any = None,
        max_gen_len: int = 512,
        temperature: float = 0.1,
        top_p: float = 0.5,
        seed: int = 0,
    ) -> str:
        """The answer to the last question; a prompt that is too long loses its beginning."""
        conversation = asked(qas, image)
        return self.generate_responses([conversation], max_gen_len, temperature, top_p, seed)[0]

    generate_reponse = generate_response
    """The name that the reference's README calls it by."""

    def generate_responses(
        self,
        conversations: Sequence[Sample],
        max_gen_len: int = 512,
        temperature: float = 0.1,
        top_p: float = 0.5,
        seed: int = 0,
    ) -> list[str]:
        """Answers to several conversations at once (see `asked`), each as the reference cuts it."""
        decode = self.processor.tokenizer.decode
        rows = self.written(conversations, self.options(max_gen_len, temperature, top_p, seed))
        return [decode(kept) for _, kept in rows]

    def written(
        self, conversations: Sequence[Sample], options: Options
    ) -> list[tuple[list[int], list[int]]]:
        """For each conversation the ids that were written, and those of them before the ending."""
        batch = self.batch([self.weave(sample, options) for sample in conversations])
        ended = self.endings(batch, options)
        assert isinstance(ended, TokenEndings)
        found = []
        for row, length in zip(
            self.decoder.write(batch, options, ended), ended.lengths, strict=True
        ):
            ids = row[:length]
            found.append((ids, ids if length is None else ended.without(ids)))
        return found

    def stream_generate(
        self,
        conversation: Sample,
        max_gen_len: int = 512,
        temperature: float = 0.1,
        top_p: float = 0.5,
        seed: int = 0,
    ) -> Iterator[dict[str, Any]]:
        """The whole text so far after each token, as `{"text": ..., "end_of_content": ...}`.

        As in the reference only the end token ends it; whoever shows it cuts at the end signal (`shown`).
        """
        options = self.options(max_gen_len, temperature, top_p, seed)
        batch = self.batch([self.weave(conversation, options)])
        eos = self.processor.tokenizer.eos
        ended = TokenEndings(self.processor.tokenizer, [[eos]] if eos is not None else [], batch)
        decode = self.processor.tokenizer.decode
        ids: list[int] = []
        for token in self.decoder.tokens(batch, options, ended):
            if token == eos:
                break
            ids.append(token)
            yield {"text": decode(ids), "end_of_content": False}
        yield {"text": decode(ids), "end_of_content": True}

    def evaluate_examples(self, conversation: Sample, options: Sequence[str]) -> list[Score]:
        """How likely each option is as the answer to the last question; the end signal is not counted.

        Raises:
            SampleError: an option without a token.
        """
        style = self.processor.recipe.template
        open_end = style.model_copy(
            update={"assistant": style.assistant.model_copy(update={"after": ""}), "unlearned": ()}
        )
        processor = self.processor.with_template(open_end)
        found = []
        for option in options:
            turns = (*conversation.turns, Turn("assistant", (option,)))
            batch = processor.batch([processor.weave(Sample(turns, conversation.id))])
            batch = batch.to(self.device)
            with self.process_group.together(), torch.inference_mode():
                logits = self.model(**batch.inputs()).logits[0, :-1].float()
            target = batch.labels[0, 1:]
            places = target != IGNORE
            chosen = logits[places].log_softmax(-1)
            likely = chosen.gather(1, target[places, None])[:, 0]
            greedy = bool((chosen.argmax(-1) == target[places]).all())
            found.append(Score(float(likely.sum()), -float(likely.mean()), greedy))
        return found

    def options(
        self, max_gen_len: int = 512, temperature: float = 0.1, top_p: float = 0.5, seed: int = 0
    ) -> Options:
        """The reference's arguments as ours."""
        return Options(max_new_tokens=max_gen_len, temperature=temperature, top_p=top_p, seed=seed)

    def weave(self, conversation: Conversation, options: Options) -> Woven:
        sample = conversation if isinstance(conversation, Sample) else Sample(tuple(conversation))
        with self.process_group.agreed():
            room = self.room(sample, options.max_new_tokens)
            return self.processor.weave(sample, True, 0, keep=room)

    def room(self, sample: Sample, answer: int) -> int:
        """Text tokens that a prompt may have beside its items and an answer of so many tokens.

        Raises:
            ContextError: none; the reference recurses without end here or cuts everything off.
        """
        context = self.processor.weave.context
        assert context is not None
        one = Sample((Turn("user", (*sample.media(), "?")),), sample.id)
        taken = int((self.processor.weave(one, True, 0).owner != 0).sum()) if sample.media() else 0
        left = context - taken - answer
        if left < 1:
            raise ContextError(
                f"{taken} places of the picture and {answer} of the answer leave {left} of {context} "
                "for the question",
                hint="ask for a shorter answer, or open the model with a greater max_seq_len",
            )
        return left

    def endings(self, batch: Batch, options: Options) -> Endings:
        tokenizer = self.processor.tokenizer
        signals = (
            self.processor.recipe.template.stop_strings
            if options.stop_strings is None
            else options.stop_strings
        )
        return TokenEndings(tokenizer, stop_sequences(tokenizer, signals), batch, signals)


class TokenEndings(Endings):
    """Ends a row where its last tokens equal one of some sequences; text is not looked at."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        sequences: Sequence[Sequence[int]],
        batch: Batch,
        stops: Sequence[str] = (),
    ) -> None:
        rows, prompt = batch.input_ids.shape
        ends = [ids[0] for ids in sequences if len(ids) == 1]
        super().__init__(tokenizer, stops, ends, prompt, rows)
        self.sequences = [list(ids) for ids in sequences]
        self.tail = max(map(len, self.sequences), default=1)

    def _ended(self, tail: list[int]) -> bool:
        return any(tail[-len(ids) :] == ids for ids in self.sequences)

    def without(self, ids: list[int]) -> list[int]:
        """The tokens before the ending."""
        for sequence in self.sequences:
            if ids[-len(sequence) :] == sequence:
                return ids[: -len(sequence)]
        return ids


def stop_sequences(tokenizer: Tokenizer, signals: Sequence[str]) -> list[list[int]]:
    """What ends an answer: the end token, and each signal as it is tokenized at the beginning of a text
    (SentencePiece puts a space in front there) and inside one."""
    found = [] if tokenizer.eos is None else [[tokenizer.eos]]
    for signal in signals:
        before = tokenizer.encode("@")[0]
        inside = tokenizer.encode("@" + signal)[0][len(before) :]
        found += [tokenizer.encode(signal)[0], inside]
    return found


def asked(qas: Qas, image: Any = None, name: str = "question") -> Sample:
    """Questions and answers as a conversation, the picture in the first question.

    Raises:
        SampleError: no question, an answer that is missing before the last, or a last one that is there.
    """
    if not qas:
        raise SampleError("there is no question", where=name, hint="give [[question, None]]")
    turns: list[Turn] = []
    for number, pair in enumerate(qas, start=1):
        question, answer = pair
        last = number == len(qas)
        if question is None or (answer is None) is not last:
            raise SampleError(
                f"pair {number} of {len(qas)} has {'an' if answer is not None else 'no'} answer",
                where=name,
                hint="every pair has a question and an answer, the last one None for its answer",
            )
        media: tuple[Part, ...] = () if image is None or turns else (as_media(image),)
        turns.append(Turn("user", (*media, question)))
        if answer is not None:
            turns.append(Turn("assistant", (answer,)))
    return Sample(tuple(turns), name)


def shown(stream: Iterator[dict[str, Any]], signal: str = "\n###") -> Iterator[dict[str, Any]]:
    """What a page shows of a stream: up to the end signal, the last characters held back until then."""
    for part in stream:
        text, ended = part["text"], part["end_of_content"]
        place = text.find(signal)
        if place >= 0:
            text, ended = text[:place].rstrip() + "\n", True
        if not ended:
            if len(text) < HELD:
                continue
            text = text[:-HELD]
        yield {"text": text, "end_of_content": ended}
        if ended:
            break
