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
from omnimix.compose.processor import Processor
from omnimix.compose.weave import Sequence as Woven
from omnimix.errors import SampleError
from omnimix.generate import folder
from omnimix.generate.asking import question as asked
from omnimix.generate.prompting import PromptBuilder, plain, written
from omnimix.generate.writing import Endings, Options, cut, endings, settled
from omnimix.types import Box, Point, Region, Sample, Turn

Conversation: TypeAlias = Sample | Sequence[Turn]


@dataclass(frozen=True)
class Answer:
    """What the model wrote.

    Attributes:
        text: without the stop string and outer white space.
        boxes: boxes and points in the text, in pixels of the conversation's last picture.
        tokens: how many tokens were written, the ending included.
        finished: whether the model came to an end by itself.
        ids: of the tokens.
    """

    text: str
    boxes: tuple[Box | Point, ...]
    tokens: int
    finished: bool
    ids: tuple[int, ...] = ()


def load(
    name_or_folder: str | Path = "nano",
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    parts: Mapping[str, str | Path] | None = None,
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
        words: facts about the parts that no file tells (`image_size` ...).

    Raises:
        RegistryError: unknown name, with the nearest known one.
        CheckpointError: a folder that holds no model, or weights that do not fit.
    """
    place = folder.locate(name_or_folder)
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    brought = Parts({**place.parts, **(parts or {})}, words)
    return Assistant(
        *folder.read(place.folder, torch.device(device), dtype or torch.float32, brought)
    )


class Assistant:
    """Asks a model.

    The options of `Options` (max_new_tokens, temperature, top_p, seed, stop) go as keywords to every
    method.
    """

    def __init__(self, model: MultimodalLM, processor: Processor) -> None:
        self.model = model
        self.processor = processor

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

    def stream(self, conversation: Conversation, **generation: Any) -> Iterator[str]:
        """The text of `reply`, piece by piece; closing the iterator ends the writing.

        The model writes in a thread of its own, so that the caller can be interrupted between pieces.
        """
        options = Options(**generation)
        return self._pieces(self._weave(conversation, options), options)

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
        bare = Assistant(self.model, plain(self.processor))
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
        with torch.inference_mode():
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

    def boxes_in(self, text: str, conversation: Conversation) -> list[Box | Point]:
        """Boxes and points that an answer names, in pixels of the conversation's last picture."""
        return self._boxes(text, self._weave(conversation, Options(max_new_tokens=1)))

    def _pieces(self, woven: Woven, options: Options) -> Iterator[str]:
        batch = self._batch([woven])
        ended = self._endings(batch, options)
        ids: list[int] = []
        sent = ""
        for token in self._tokens(batch, options, ended):
            ids.append(token)
            text = settled(self.processor.tokenizer.decode(ids), ended.stops)
            if len(text) > len(sent):
                yield text[len(sent) :]
                sent = text
        text = self._text(ids[: ended.lengths[0]], ended.stops)
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
        return self.processor.weave(conversation, True, options.max_new_tokens)

    def _batch(self, woven: Sequence[Woven]) -> Batch:
        return self.processor.batch(woven, "left").to(self.device)

    def _write(self, woven: Sequence[Woven], options: Options) -> list[Answer]:
        batch = self._batch(woven)
        ended = self._endings(batch, options)
        ids = self._generate(batch, options, ended)
        answers = []
        for row, sequence, length in zip(ids, woven, ended.lengths, strict=True):
            own = row[:length]
            text = self._text(own, ended.stops)
            boxes = tuple(self._boxes(text, sequence))
            answers.append(Answer(text, boxes, len(own), length is not None, tuple(own)))
        return answers

    def _boxes(self, text: str, woven: Woven) -> list[Box | Point]:
        if not woven.pictures:
            return []
        size, frame = woven.pictures[-1]
        return self.processor.recipe.coordinates.read(text, frame, size)

    def _text(self, ids: Sequence[int], stops: Sequence[str]) -> str:
        return cut(self.processor.tokenizer.decode(ids), stops)[0].strip()

    def _endings(self, batch: Batch, options: Options) -> Endings:
        tokenizer = self.processor.tokenizer
        stops = self.processor.recipe.template.stop if options.stop is None else options.stop
        ends = endings(tokenizer, stops)
        rows, prompt = batch.input_ids.shape
        return Endings(tokenizer, stops, ends, prompt, rows)

    def _generate(
        self, batch: Batch, options: Options, ended: Endings, streamer: Any = None
    ) -> list[list[int]]:
        """The one place where tokens are written: new ids of every row."""
        pad = self.processor.tokenizer.pad
        with _seeded(options.seed, self.device), torch.inference_mode():
            ids = self.model.generate(
                **batch.inputs(),
                generation_config=options.config(sorted(ended.ends), pad),
                stopping_criteria=[ended],
                streamer=streamer,
            )
        written: list[list[int]] = ids[:, ended.prompt :].tolist()
        return written


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
