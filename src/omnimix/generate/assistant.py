"""The assistant: a model and its processor, answering questions about pictures, sounds and whatever it takes."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from omnimix.checkpoints.base import Parts
from omnimix.compose import features
from omnimix.compose.batch import Batch
from omnimix.compose.model import MultimodalLM
from omnimix.compose.pointing import readable
from omnimix.compose.processor import Processor
from omnimix.compose.sequence import Sequence as Woven
from omnimix.errors import OmnimixError
from omnimix.generate import devices, folder, untrained
from omnimix.generate.answers import Answer, Placed, Stream, TokenLogprob
from omnimix.generate.decoding import Decoder, Options
from omnimix.generate.engine.core import Generation
from omnimix.generate.stopping import Endings, Stops, cut, end_tokens, free, settled
from omnimix.media.poses import joined
from omnimix.parallel.process_group import ProcessGroup
from omnimix.prompts.coordinates import ParsedRegions
from omnimix.prompts.questions import (
    Asked,
    Conversation,
    conversation_of,
    given,
    question as asked,
    sample_of,
    several,
)
from omnimix.renamed import new_name
from omnimix.types import Media, Part, Region

if TYPE_CHECKING:
    from torch import distributed as dist

__all__ = ["Answer", "Assistant", "Stream", "load"]


def load(
    name_or_folder: str | Path = "nano",
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    parts: Mapping[str, str | Path] | None = None,
    parallel: str | dist.ProcessGroup | None = None,
    quantization: str | None = None,
    **words: Any,
) -> Assistant:
    """A model that ships with omnimix, one from a folder of `save_pretrained`, or a released checkpoint.

    The file of a recipe (`my-model/recipe.yaml`) opens its parts before anything has learned; which of them are
    fresh is told on stderr.

    A released checkpoint is named by its folder or by its id (`prism-dinosiglip+7b`); see
    `omnimix.checkpoints.releases.fetch` for where its files come from.

    Args:
        name_or_folder: `omnimix models` lists the names.
        device: a CUDA device where there is one, else the CPU.
        dtype: that of the release for a released checkpoint whose family has one, else float32.
        parts: for a released checkpoint, where the parts lie that it does not hold: a hub id, or a local
            folder in the hub's layout, by the part's name (`llm`, `dino` ...).
        parallel: `tensor` shares the model out over the processes that `torchrun` started, in a single
            process it changes nothing; a process group that the caller made does the same for its members.
        quantization: `nf4` or `int8` holds the language model's linear layers in 4 or 8 bits.
        words: facts about the parts that no file tells (`image_size` ...).

    Raises:
        OmnimixError: a package, GPU or count of processes that does not fit `parallel` or `quantization`.
        RegistryError: unknown name, with the nearest known one.
        CheckpointError: a folder that holds no model, or weights that do not fit.
    """
    for word in words:
        if (renamed := new_name(("load",), word)) is not None:
            raise OmnimixError(renamed)
    if str(name_or_folder).endswith((".yaml", ".yml")):
        own = {"parts": parts, "parallel": parallel, "quantization": quantization}
        odd = [word for word, given in {**words, **own}.items() if given]
        untrained.check(name_or_folder, odd)
        chosen, _ = devices.place(device, dtype or torch.float32, None, ProcessGroup())
        return Assistant(*untrained.read(name_or_folder)).to(chosen, dtype)
    process_group = devices.meet(parallel, quantization)
    with process_group.agreed():
        folder.check_words(name_or_folder, Parts(parts or {}, words))
        place = folder.locate(name_or_folder)
        dtype = dtype or folder.dtype(name_or_folder, place)
        chosen, holding = devices.place(device, dtype, quantization, process_group)
    brought = Parts({**place.parts, **(parts or {})}, words)
    with process_group.together():
        held = folder.read(place.folder, chosen, dtype, brought, holding, place.recognised)
    with process_group.agreed():
        return Assistant(*held, process_group)


class Assistant:
    """Asks a model.

    The options of `Options` (max_new_tokens, temperature, top_p, seed, stop_strings) go as keywords to every
    method. A family's face holds an assistant and speaks through its last four methods: `weave`, `batch`,
    `endings` and `decoder`.
    """

    def __init__(
        self, model: MultimodalLM, processor: Processor, process_group: ProcessGroup | None = None
    ) -> None:
        self.model = model
        self.processor = processor
        self.process_group = process_group or ProcessGroup()
        self.decoder = Decoder(model, self.process_group)

    def keep_features(
        self,
        folder: str | Path,
        max_size: str = "50GB",
        modalities: Sequence[str] | None = None,
    ) -> None:
        """Keep what the encoders give in a folder: an item that was asked about before is not encoded again.

        Args:
            folder, max_size, modalities: as the words of `FeatureCacheSpec`.

        Raises:
            OmnimixError: a modality that prepares its items by chance.
        """
        words = features.FeatureCacheSpec(
            folder=str(folder),
            max_size=max_size,
            modalities=None if modalities is None else tuple(modalities),
        )
        features.keep(self.model, self.processor, words)

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        device: torch.device = next(self.model.parameters()).device
        return device

    def to(
        self, device: str | torch.device | None = None, dtype: torch.dtype | None = None
    ) -> Assistant:
        """Move the model, change its floating type, or both; returns the assistant itself.

        Raises:
            OmnimixError: quantized weights, or cut over processes, stay where they were loaded.
        """
        if self.process_group.size > 1 or getattr(self.model, "is_quantized", False):
            held = "cut over processes" if self.process_group.size > 1 else "quantized"
            raise OmnimixError(
                f"weights that are {held} cannot be moved",
                hint="name the device and dtype when the model is loaded",
            )
        devices.move(self.model, device, dtype)
        return self

    def answer(
        self,
        question: str | Sequence[Part],
        image: Any = None,
        regions: Sequence[Region] = (),
        images: Sequence[Any] = (),
        audio: Any = None,
        video: Any = None,
        document: Any = None,
        media: Sequence[Media] = (),
        **generation: Any,
    ) -> str:
        """The answer's text to one question; see `omnimix.prompts.questions` for where everything goes.

        Args:
            question: the text, or text and `Media` in reading order.
            image, images: pictures.
            regions: marks on the last picture.
            audio, video, document: one of each, as `Media.audio` and its like take it.
            media: further items, of any kind that the recipe has a place for.
        """
        pictures = [*([] if image is None else [image]), *images]
        items = [*given(audio=audio, video=video, document=document), *media]
        return self.reply([asked(question, pictures, regions, items)], **generation).text

    def answers(
        self, questions: Sequence[Asked], batch_size: int = 32, **generation: Any
    ) -> list[str]:
        """The answers' texts to many questions, several at once.

        Args:
            questions: each a text, text and `Media` in reading order, a list of turns, or a `Sample`.
            batch_size: most that are written together; the answers do not depend on it.
        """
        many = [conversation_of(question) for question in several(questions, "questions")]
        return [one.text for one in self.reply_many(many, batch_size, **generation)]

    def reply(
        self, conversation: Conversation, options: Options | None = None, **generation: Any
    ) -> Answer:
        """The answer to the last user turn of a conversation.

        Args:
            options: how it is written, where the keywords do not say.
        """
        return self.reply_many([conversation], options=options, **generation)[0]

    def reply_many(
        self,
        conversations: Sequence[Conversation],
        batch_size: int = 32,
        options: Options | None = None,
        **generation: Any,
    ) -> list[Answer]:
        """Answers in the order of the conversations; as many as `batch_size` are written together."""
        options = (options or Options()).but(generation)
        many = several(conversations, "conversations")
        woven = [self.weave(conversation, options) for conversation in many]
        return self.write_many(woven, batch_size, options)

    def write_many(
        self, woven: Sequence[Woven], batch_size: int = 32, options: Options | None = None
    ) -> list[Answer]:
        """Answers to conversations that `weave` made tokens of, in their order."""
        options = options or Options()
        endings = self.endings(options)
        written = self.decoder.write(woven, options, endings, batch_size)
        pairs = zip(woven, written, strict=True)
        return [self.answer_of(one, each, endings.stops) for each, one in pairs]

    def stream(
        self, conversation: Conversation, options: Options | None = None, **generation: Any
    ) -> Stream:
        """The text of `reply`, piece by piece; closing the iterator ends the writing.

        What has been written so far, its regions included, is at any time the stream's `answer`.

        Args:
            options: how it is written, where the keywords do not say.
        """
        options = (options or Options()).but(generation)
        woven = self.weave(conversation, options)
        stops = self.stops(options)
        ids: list[int] = []

        def answer(done: bool) -> Answer:
            return self._answer(ids, woven, stops, done and self.ended(ids, stops))

        return Stream(self._pieces(woven, options, ids), answer)

    def _pieces(self, woven: Woven, options: Options, ids: list[int]) -> Generator[str, None, None]:
        endings = self.endings(options)
        sent = ""
        for token in self.decoder.tokens(woven, options, endings):
            ids.append(token)
            text = self.settled(ids, endings.stops)
            if len(text) > len(sent):
                yield text[len(sent) :]
                sent = text
        text = self._text(ids, endings.stops)
        if len(text) > len(sent):
            yield text[len(sent) :]

    def settled(self, ids: Sequence[int], stops: Stops) -> str:
        """The text of an answer's first tokens, as far as no later one can change it."""
        tokenizer = self.processor.weave.tokenizer
        return settled(tokenizer.decode(ids), stops.strings, free(tokenizer, ids, stops))

    def answer_of(self, written: Generation, woven: Woven, stops: Stops) -> Answer:
        """The answer that an engine wrote, or what there is of it; how likely its tokens were stands in a whole one alone."""
        done = written.reason == "stop"
        found = self._answer(written.ids, woven, stops, done)
        if written.reason == "cancelled":
            found = replace(found, finish_reason="cancelled")
        told = written.likely and written.over
        return replace(found, logprobs=self.logprobs(written)) if told else found

    def logprobs(self, written: Generation, start: int = 0) -> tuple[TokenLogprob, ...]:
        """How likely tokens were, from one of them on."""
        decode = self.processor.weave.tokenizer.decode
        pairs = zip(written.ids[start:], written.likely[start:], strict=False)
        return tuple(
            TokenLogprob(
                decode([token], specials=True),
                one.logprob,
                tuple((decode([other], specials=True), share) for other, share in one.top),
            )
            for token, one in pairs
        )

    def _answer(self, ids: Sequence[int], woven: Woven, stops: Stops, finished: bool) -> Answer:
        text = self._text(ids, stops)
        # Conventions made of special tokens are not in the plain text.
        full = self.processor.recipe.coordinates.tokens
        written = self.processor.weave.tokenizer.decode(ids, specials=True) if full else text
        found = self._reading(written, woven)
        placed = tuple(self._placed(found, woven, ids, text))
        return Answer(
            text,
            found.regions,
            len(ids),
            finished,
            tuple(ids),
            found.skipped,
            placed,
            prompt_tokens=len(woven),
            finish_reason="stop" if finished else "length",
        )

    def _placed(
        self, found: ParsedRegions, woven: Woven, ids: Sequence[int], text: str
    ) -> Iterator[Placed]:
        """The regions of an answer with their places in its text."""
        last = len(woven.pictures) - 1
        lines = joined(found.regions)
        rows = zip(found.regions, found.spans, found.numbers, strict=True)
        for i, (region, span, number) in enumerate(rows):
            on = last if number is None or number > len(woven.on) else woven.on[number - 1]
            if self.processor.recipe.coordinates.tokens:
                first, behind = (min(self._shown(ids, place), len(text)) for place in span)
                span = (first, behind)
            yield Placed(i, region, *span, on, lines[i])

    def _shown(self, ids: Sequence[int], place: int) -> int:
        """How much of a text with its special tokens, up to a place, is shown without them."""
        decode = self.processor.weave.tokenizer.decode
        whole = range(len(ids) + 1)
        count = bisect_left(whole, place, key=lambda k: len(decode(ids[:k], specials=True)))
        return len(decode(ids[:count]).lstrip())

    def _reading(self, text: str, woven: Woven) -> ParsedRegions:
        if not woven.pictures:
            return ParsedRegions()
        return readable(self.processor.recipe, text, woven.pictures[-1], woven.asked, woven.way)

    def _text(self, ids: Sequence[int], stops: Stops) -> str:
        tokenizer = self.processor.weave.tokenizer
        return cut(tokenizer.decode(ids), stops.strings, free(tokenizer, ids, stops))[0].strip()

    def stops(self, options: Options) -> Stops:
        """Strings that end an answer."""
        return options.stops(self.processor.recipe.template.stop_strings)

    def ended(self, ids: Sequence[int], stops: Stops) -> bool:
        """Whether an answer came to an end by itself."""
        tokenizer = self.processor.weave.tokenizer
        if ids and ids[-1] in end_tokens(tokenizer, stops.strings):
            return True
        start = free(tokenizer, ids, stops)
        return bool(stops.strings) and cut(tokenizer.decode(ids), stops.strings, start)[1]

    def weave(self, conversation: Conversation, options: Options) -> Woven:
        """A conversation as tokens, with room for an answer of these options."""
        with self.process_group.agreed():
            return self.processor.weave(
                sample_of(conversation), True, options.max_new_tokens, pointing=options.pointing
            )

    def batch(self, woven: Sequence[Woven]) -> Batch:
        """Conversations side by side on the model's device, padded on the left."""
        return self.processor.batch(woven, "left").to(self.device)

    def endings(self, options: Options) -> Endings:
        """What sees the end of an answer."""
        tokenizer = self.processor.weave.tokenizer
        stops = self.stops(options)
        return Endings(tokenizer, stops, end_tokens(tokenizer, stops.strings))
