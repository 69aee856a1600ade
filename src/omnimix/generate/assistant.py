"""The assistant: a model and its processor, answering questions about pictures and drawn regions."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch

from omnimix.checkpoints.base import Parts
from omnimix.compose.batch import Batch
from omnimix.compose.model import MultimodalLM
from omnimix.compose.pointing import readable
from omnimix.compose.processor import Processor
from omnimix.compose.sequence import Sequence as Woven
from omnimix.errors import SampleError
from omnimix.generate import folder, placing
from omnimix.generate.asking import question as asked
from omnimix.generate.prompting import PromptBuilder, plain, written
from omnimix.generate.writing import Endings, Options, cut, endings, settled
from omnimix.parallel.team import Team
from omnimix.prompts.coordinates import Reading, Skipped
from omnimix.types import Box, Point, Region, Sample, Turn

Conversation: TypeAlias = Sample | Sequence[Turn]


@dataclass(frozen=True)
class Answer:
    """What the model wrote.

    Attributes:
        text: without the stop string and outer white space.
        regions: what the text points at, in pixels of the conversation's last picture, in its order and
            with a `label` where the model's convention has one; regions of the question that the answer
            names are among them.
        tokens: how many tokens were written, the ending included.
        finished: whether the model came to an end by itself.
        ids: of the tokens.
        skipped: what looked like a region and is none, with the reason.
    """

    text: str
    regions: tuple[Region, ...]
    tokens: int
    finished: bool
    ids: tuple[int, ...] = ()
    skipped: tuple[Skipped, ...] = ()

    @property
    def boxes(self) -> tuple[Box | Point, ...]:
        """The boxes and points among the regions."""
        return tuple(region for region in self.regions if isinstance(region, Box | Point))


def load(
    name_or_folder: str | Path = "nano",
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    parts: Mapping[str, str | Path] | None = None,
    parallel: str | None = None,
    quantize: str | None = None,
    **words: Any,
) -> Assistant:
    """A model that ships with omnimix, one from a folder of `save_pretrained`, or a released checkpoint.

    A released checkpoint is named by its folder or by its id (`prism-dinosiglip+7b`); see
    `omnimix.checkpoints.releases.fetch` for where its files come from.

    Args:
        name_or_folder: `omnimix models` lists the names.
        device: a CUDA device where there is one, else the CPU.
        dtype: float32 unless told otherwise.
        parts: for a released checkpoint, where the parts lie that it does not hold: a hub id, or a local
            folder in the hub's layout, by the part's name (`llm`, `dino` ...).
        parallel: `tensor` shares the model out over the processes that `torchrun` started; in a single
            process it changes nothing.
        quantize: `nf4` or `int8` holds the language model's linear layers in 4 or 8 bits.
        words: facts about the parts that no file tells (`image_size` ...).

    Raises:
        OmnimixError: a package, GPU or count of processes that does not fit `parallel` or `quantize`.
        RegistryError: unknown name, with the nearest known one.
        CheckpointError: a folder that holds no model, or weights that do not fit.
    """
    dtype = dtype or torch.float32
    chosen, holding, team = placing.place(device, dtype, parallel, quantize)
    with team.agreed():
        place = folder.locate(name_or_folder)
    brought = Parts({**place.parts, **(parts or {})}, words)
    with team.together():
        held = folder.read(place.folder, chosen, dtype, brought, holding)
    with team.agreed():
        return Assistant(*held, team)


class Assistant:
    """Asks a model.

    The options of `Options` (max_new_tokens, temperature, top_p, seed, stop) go as keywords to every
    method.
    """

    def __init__(self, model: MultimodalLM, processor: Processor, team: Team | None = None) -> None:
        self.model = model
        self.processor = processor
        self.team = team or Team()

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        device: torch.device = next(self.model.parameters()).device
        return device

    def answer(
        self,
        question: str,
        image: Any = None,
        regions: Sequence[Region] = (),
        images: Sequence[Any] = (),
        **generation: Any,
    ) -> str:
        """The answer's text to one question; see `omnimix.generate.asking` for where regions go."""
        pictures = [*([] if image is None else [image]), *images]
        return self.reply([asked(question, pictures, regions)], **generation).text

    def reply(self, conversation: Conversation, **generation: Any) -> Answer:
        """The answer to the last user turn of a conversation."""
        return self.reply_many([conversation], **generation)[0]

    def reply_many(
        self, conversations: Sequence[Conversation], batch_size: int = 32, **generation: Any
    ) -> list[Answer]:
        """Answers in the order of the conversations; those of like length are written together."""
        options = Options(**generation)
        woven = [self._weave(conversation, options) for conversation in conversations]
        order = sorted(range(len(woven)), key=lambda i: len(woven[i]))
        answers: dict[int, Answer] = {}
        for start in range(0, len(order), max(batch_size, 1)):
            chosen = order[start : start + max(batch_size, 1)]
            written = self._write([woven[i] for i in chosen], options)
            answers.update(zip(chosen, written, strict=True))
        return [answers[i] for i in range(len(woven))]

    def stream(self, conversation: Conversation, **generation: Any) -> Stream:
        """The text of `reply`, piece by piece; closing the iterator ends the writing.

        The model writes in a thread of its own, so that the caller can be interrupted between pieces. What
        has been written so far, its regions included, is at any time the stream's `answer`.
        """
        options = Options(**generation)
        return Stream(self, self._weave(conversation, options), options)

    def prompt_builder(self, system: str | None = None) -> PromptBuilder:
        """For those who build prompts as text: turns in the model's own style."""
        return PromptBuilder(self.processor.recipe.template, system)

    def generate(
        self,
        image: Any,
        prompt_text: str,
        do_sample: bool = False,
        temperature: float = 1.0,
        max_new_tokens: int = 64,
        min_length: int = 1,
        **options: Any,
    ) -> str:
        """Answer a prompt that is written out already (see `prompt_builder`).

        Args:
            image: a picture, or several where the recipe takes them; None for text alone.
            prompt_text: as the model shall read it; the begin token is added.
            temperature: used with `do_sample` alone.
            min_length: fewest tokens of prompt text and answer together.
            options: further words of `Options`.
        """
        answers = self.generate_batch(
            [image],
            [prompt_text],
            do_sample=do_sample,
            temperature=temperature,
            max_new_tokens=max_new_tokens,
            min_length=min_length,
            **options,
        )
        return str(answers[0])

    def generate_batch(
        self,
        images: Sequence[Any],
        texts: Sequence[str],
        return_string_probabilities: Sequence[str] | None = None,
        do_sample: bool = False,
        temperature: float = 1.0,
        min_length: int = 1,
        **options: Any,
    ) -> list[Any]:
        """Answers to many written prompts, or for each the probabilities of some words.

        Args:
            images: one for each text; see `generate`.
            return_string_probabilities: words of one token each; for each text their probabilities as the
                first token of the answer, among these words alone, are returned in place of an answer.

        Returns:
            A list of texts, or of lists of probabilities.

        Raises:
            SampleError: not as many pictures as texts, or a word that is not one token.
        """
        if len(images) != len(texts):
            raise SampleError(
                f"{len(images)} pictures for {len(texts)} prompts",
                hint="give one for each, or None",
            )
        bare = Assistant(self.model, plain(self.processor), self.team)
        recipe = self.processor.recipe
        samples = [
            written(recipe, text, _many(image)) for image, text in zip(images, texts, strict=True)
        ]
        if return_string_probabilities is not None:
            return [bare.probabilities(s, return_string_probabilities) for s in samples]
        options["temperature"] = temperature if do_sample else 0.0
        answers = []
        for sample in samples:
            text_ids = self.processor.tokenizer.encode(sample.turns[0].text())[0]
            least = max(0, min_length - len(text_ids) - recipe.template.bos)
            answers.append(bare.reply(sample, **{"min_new_tokens": least, **options}).text)
        return answers

    def probabilities(self, conversation: Conversation, words: Sequence[str]) -> list[float]:
        """How likely each word is as the first token of the answer, among these words alone.

        Args:
            words: each one token of the model (True, False, Yes, No, A ...).

        Raises:
            SampleError: a word that is not one token.
        """
        ids = [self.token_of(word) for word in words]
        batch = self._batch([self._weave(conversation, Options(max_new_tokens=1))])
        self.team.same("input", placing.fingerprint(batch) if self.team.size > 1 else "")
        with self.team.together(), torch.inference_mode():
            logits = self.model(**batch.inputs()).logits[0, -1].float()
        shares: list[float] = logits.softmax(-1)[ids].div(logits.softmax(-1)[ids].sum()).tolist()
        return shares

    def token_of(self, word: str) -> int:
        """The one token that a word is.

        Raises:
            SampleError: it is several.
        """
        ids = self.processor.tokenizer.encode(word)[0]
        if len(ids) != 1:
            raise SampleError(
                f"{word!r} is {len(ids)} tokens of this model, not one",
                hint="probabilities are read at the first token; use a shorter word",
            )
        return ids[0]

    def regions_in(self, text: str, conversation: Conversation) -> Reading:
        """What an answer's text points at, in pixels of the conversation's last picture."""
        return self._reading(text, self._weave(conversation, Options(max_new_tokens=1)))

    def boxes_in(self, text: str, conversation: Conversation) -> list[Box | Point]:
        """The boxes and points among `regions_in`."""
        found = self.regions_in(text, conversation).regions
        return [region for region in found if isinstance(region, Box | Point)]

    def _pieces(self, woven: Woven, options: Options, ids: list[int]) -> Iterator[str]:
        batch = self._batch([woven])
        ended = self._endings(batch, options)
        sent = ""
        for token in self._tokens(batch, options, ended):
            ids.append(token)
            text = settled(self.processor.tokenizer.decode(ids), ended.stops)
            if len(text) > len(sent):
                yield text[len(sent) :]
                sent = text
        if ended.lengths[0] is not None:
            del ids[ended.lengths[0] :]
        text = self._text(ids, ended.stops)
        if len(text) > len(sent):
            yield text[len(sent) :]

    def _tokens(self, batch: Batch, options: Options, ended: Endings) -> Iterator[int]:
        """Token after token of a batch of one, written in a thread; closing the iterator ends it."""
        tokens: queue.SimpleQueue[int | BaseException | None] = queue.SimpleQueue()

        def write() -> None:
            try:
                self._generate(batch, options, ended, _Put(tokens))
                tokens.put(None)
            except BaseException as error:  # handed to the caller's thread
                tokens.put(error)

        writer = threading.Thread(target=write, daemon=True)
        writer.start()
        try:
            while (token := tokens.get()) is not None:
                if isinstance(token, BaseException):
                    raise token
                yield token
        finally:
            ended.cancelled = True
            writer.join()

    def _weave(self, conversation: Conversation, options: Options) -> Woven:
        if not isinstance(conversation, Sample):
            conversation = Sample(tuple(conversation), "question")
        with self.team.agreed():
            return self.processor.weave(
                conversation, True, options.max_new_tokens, pointing=options.pointing
            )

    def _batch(self, woven: Sequence[Woven]) -> Batch:
        return self.processor.batch(woven, "left").to(self.device)

    def _write(self, woven: Sequence[Woven], options: Options) -> list[Answer]:
        batch = self._batch(woven)
        ended = self._endings(batch, options)
        ids = self._generate(batch, options, ended)
        return [
            self._answer(row[:length], sequence, ended.stops, length is not None)
            for row, sequence, length in zip(ids, woven, ended.lengths, strict=True)
        ]

    def _answer(
        self, ids: Sequence[int], woven: Woven, stops: Sequence[str], finished: bool
    ) -> Answer:
        text = self._text(ids, stops)
        # Conventions made of special tokens are not in the plain text.
        full = self.processor.recipe.coordinates.tokens
        written = self.processor.tokenizer.decode(ids, specials=True) if full else text
        found = self._reading(written, woven)
        return Answer(text, found.regions, len(ids), finished, tuple(ids), found.skipped)

    def _reading(self, text: str, woven: Woven) -> Reading:
        if not woven.pictures:
            return Reading()
        return readable(self.processor.recipe, text, woven.pictures[-1], woven.asked, woven.way)

    def _text(self, ids: Sequence[int], stops: Sequence[str]) -> str:
        return cut(self.processor.tokenizer.decode(ids), stops)[0].strip()

    def stops(self, options: Options) -> Sequence[str]:
        """Strings that end an answer."""
        return self.processor.recipe.template.stop if options.stop is None else options.stop

    def ended(self, ids: Sequence[int], stops: Sequence[str]) -> bool:
        """Whether an answer came to an end by itself."""
        tokenizer = self.processor.tokenizer
        if ids and ids[-1] in endings(tokenizer, stops):
            return True
        return bool(stops) and cut(tokenizer.decode(ids), stops)[1]

    def _endings(self, batch: Batch, options: Options) -> Endings:
        tokenizer = self.processor.tokenizer
        stops = self.stops(options)
        ends = endings(tokenizer, stops)
        rows, prompt = batch.input_ids.shape
        return Endings(tokenizer, stops, ends, prompt, rows)

    def _generate(
        self, batch: Batch, options: Options, ended: Endings, streamer: Any = None
    ) -> list[list[int]]:
        """The one place where tokens are written: new ids of every row."""
        pad = self.processor.tokenizer.pad
        seed = options.seed
        if self.team.size > 1:
            self.team.same("input", placing.fingerprint(batch))
            if options.temperature > 0:
                seed = self.team.seed(seed)
            if streamer is not None:
                # A caller may end the writing on one rank; the others must not wait for its next token.
                ended.asked = self.team.any
        together = self.team.together()
        with together, _seeded(seed, self.device), torch.inference_mode():
            ids = self.model.generate(
                **batch.inputs(),
                generation_config=options.config(sorted(ended.ends), pad),
                stopping_criteria=[ended],
                streamer=streamer,
            )
        written: list[list[int]] = ids[:, ended.prompt :].tolist()
        return written


class Stream(Iterator[str]):
    """An answer while it is written: its pieces of text, and at any time what there is of it."""

    def __init__(self, assistant: Assistant, woven: Woven, options: Options) -> None:
        self._assistant = assistant
        self._woven = woven
        self._stops = assistant.stops(options)
        self._ids: list[int] = []
        self._done = False
        self._pieces = assistant._pieces(woven, options, self._ids)

    def __next__(self) -> str:
        try:
            return next(self._pieces)
        except StopIteration:
            self._done = True
            raise

    def close(self) -> None:
        """End the writing."""
        self._pieces.close()  # type: ignore[attr-defined]

    @property
    def answer(self) -> Answer:
        """What has been written so far."""
        ended = self._assistant.ended(self._ids, self._stops)
        return self._assistant._answer(self._ids, self._woven, self._stops, self._done and ended)


def _many(image: Any) -> Sequence[Any]:
    if image is None:
        return ()
    return image if isinstance(image, list | tuple) else (image,)


class _Put:
    """A streamer of transformers: the prompt comes first, then token after token."""

    def __init__(self, tokens: queue.SimpleQueue[int | BaseException | None]) -> None:
        self.tokens = tokens
        self.prompt_seen = False

    def put(self, value: torch.Tensor) -> None:
        if self.prompt_seen:
            for token in value.flatten().tolist():
                self.tokens.put(int(token))
        self.prompt_seen = True

    def end(self) -> None:
        """Nothing is left to do; the writer's thread says when it is through."""


@contextlib.contextmanager
def _seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    """Chance from a seed, and the caller's own chance untouched; without a seed nothing changes."""
    if seed is None:
        yield
        return
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
