"""SPHINX as its users know it: `from_pretrained`, `generate_response`, `generate`, streaming, scores.

    >>> # from omnimix.families.sphinx import SPHINXModel
    >>> # model = SPHINXModel.from_pretrained("SPHINX-1k", with_visual=True)
    >>> # model.generate_response([["What is in the picture?", None]], image)

The arguments and their defaults are those of LLaMA2-Accessory's `MetaModel` and `SPHINXModel`
(golden/specs/sphinx.md section 6); a picture is given as it is, not as a prepared tensor.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from omnimix.calls import checked_call
from omnimix.compose.sequence import Sequence as Woven
from omnimix.errors import CheckpointError, ContextError, SampleError
from omnimix.families.sphinx.conversation import (
    Qas,
    TokenEndings,
    asked,
    picture,
    pictures,
    stop_sequences,
    with_text,
)
from omnimix.families.sphinx.folder import stated_type
from omnimix.families.sphinx.names import REGION
from omnimix.families.sphinx.recipe import TYPES
from omnimix.generate.assistant import Assistant, load
from omnimix.generate.decoding import Options
from omnimix.types import Media, Sample, Turn

DTYPE = torch.bfloat16
"""What the released weights are stored in and were run in."""

Text = str | Sequence[int]
"""A prompt, or its tokens with the begin token."""


class SPHINXModel:
    """A SPHINX behind the face of the reference's `SPHINXModel`.

    Where a picture is taken, so are the items (`tuple[Media, ...]`) that a prompt shows.

    Attributes:
        assistant: the model; it answers questions in omnimix's own way too.

    Raises:
        CheckpointError: a model of the other class, which takes marks or takes none.
    """

    takes_marks: ClassVar[bool] = False

    def __init__(self, assistant: Assistant) -> None:
        recipe = assistant.processor.recipe
        self._refuse_other(REGION in recipe.modalities, recipe.name)
        self.assistant = assistant

    @classmethod
    def _refuse_other(cls, marks: bool, where: str) -> None:
        if marks is not cls.takes_marks:
            what = "a SPHINX-V, which looks at" if marks else "a SPHINX, which takes no"
            right = "SPHINX_V_Model" if marks else "SPHINXModel"
            raise CheckpointError(
                f"this is {what} marks on a picture",
                where=where,
                hint=f"open it with {right}.from_pretrained",
            )

    @classmethod
    @checked_call
    def from_pretrained(
        cls,
        pretrained_path: str | Path | Sequence[str | Path],
        llama_type: str | None = None,
        llama_config: str | Path | Sequence[str | Path] | None = None,
        tokenizer_path: str | Path | None = None,
        with_visual: bool = True,
        max_seq_len: int = 4096,
        mp_group: Any = None,
        dtype: torch.dtype = DTYPE,
        device: str | torch.device | None = None,
        quant: bool = False,
        **words: Any,
    ) -> Self:
        """Open one folder or released id, or several of which later ones replace weights of earlier ones.

        Args:
            llama_type, llama_config, tokenizer_path: in place of what is found in the folders.
            with_visual: the encoders are always opened; False is refused.
            max_seq_len: most positions of a sequence, the picture's included.
            mp_group: a process group that the caller made; its processes hold one model together.
            device: a CUDA device where there is one, else the CPU.
            quant: hold the language model in 4 bits (nf4).
            words: further words of the family, see `omnimix.families.sphinx.folder`.

        Raises:
            CheckpointError: what cannot be found or does not fit.
            OmnimixError: a process group or device that cannot hold the model.
        """
        paths = [pretrained_path] if isinstance(pretrained_path, str | Path) else pretrained_path
        if not paths:
            raise SampleError("pretrained_path names no folder", hint="give a folder or a list")
        first, *over = (str(path).removeprefix("hf://") for path in paths)
        kind = llama_type or next(filter(None, map(stated_type, reversed([first, *over]))), None)
        if kind in TYPES:  # else the reader says what is wrong
            cls._refuse_other(TYPES[kind] == "sphinx_v", first)
        if not with_visual:
            raise CheckpointError(
                "the language model alone (with_visual=False) cannot be opened",
                where=first,
                hint="leave the word out; a question without a picture is answered from text alone",
            )
        places: dict[str, Any] = {"config": _one(llama_config), "tokenizer": tokenizer_path}
        said: dict[str, Any] = {"llama_type": llama_type, "over": over or None, **words}
        assistant = load(
            first,
            device,
            dtype,
            {name: place for name, place in places.items() if place is not None},
            parallel=mp_group,
            quantization="nf4" if quant else None,
            max_seq_len=max_seq_len,
            **{name: value for name, value in said.items() if value is not None},
        )
        return cls(assistant)

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return self.assistant.processor.weave.tokenizer

    @property
    def signal(self) -> str:
        """What ends each answer of a conversation."""
        return self.assistant.processor.recipe.template.stop_strings[0]

    @checked_call
    def prompt(self, qas: Qas) -> str:
        """Questions and answers in the model's own style, open for the last answer.

        Raises:
            SampleError: no question, or answers in the wrong places.
        """
        return self.assistant.processor.recipe.template.text(asked(qas), True)

    def written(
        self,
        prompts: Sequence[Text],
        media: Sequence[Sequence[Media]],
        options: Options,
        signals: Iterable[str] = (),
    ) -> list[tuple[list[int], list[int]]]:
        """For each prompt the ids that were written, and those of them before the ending.

        Args:
            media: what each prompt shows, one entry a prompt.
            signals: texts that end an answer beside the end token.

        Raises:
            ContextError: no place is left for a prompt.
        """
        woven = self._woven(prompts, media, options.max_new_tokens)
        endings = TokenEndings(self.tokenizer, stop_sequences(self.tokenizer, signals))
        written = self.assistant.decoder.write(woven, options, endings)
        return [
            (one.ids, endings.without(one.ids) if one.reason == "stop" else one.ids)
            for one in written
        ]

    @checked_call
    def generate_response(
        self,
        qas: Qas,
        image: Any = None,
        max_gen_len: int = 512,
        temperature: float = 0.1,
        top_p: float = 0.5,
        seed: int = 0,
    ) -> str:
        """The answer to the last question; a prompt that is too long loses its beginning.

        Args:
            qas: questions with their answers, `[[question, answer], ..., [question, None]]`.
            image: the picture, in any form; None for text alone.
            max_gen_len: most tokens of the answer.
            temperature: 0 takes the likeliest token every time.
            top_p: only the likeliest tokens that together reach this share.
            seed: of the sampling.
        """
        options = Options(max_gen_len, temperature, top_p, seed=seed)
        ((_, kept),) = self.written([self.prompt(qas)], [picture(image)], options, [self.signal])
        return str(self.tokenizer.decode(kept))

    def generate_reponse(self, *args: Any, **words: Any) -> str:
        """`generate_response` under the name that older READMEs call it by."""
        return self.generate_response(*args, **words)

    @checked_call
    def generate(
        self,
        prompts: Sequence[str],
        images: Sequence[Any] | None = None,
        max_gen_len: int = 512,
        temperature: float = 0.0,
        top_p: float = 0.95,
        additional_stop_symbols: Iterable[str] = (),
    ) -> list[str]:
        """Answers to prompts that are written out already (see `prompt`), several at once.

        Args:
            images: a picture for each prompt.
            additional_stop_symbols: texts that end an answer and are cut from it.
        """
        options = Options(max_gen_len, temperature, top_p)
        rows = self.written(prompts, pictures(images, prompts), options, additional_stop_symbols)
        return [self.tokenizer.decode(kept) for _, kept in rows]

    @checked_call
    def stream_generate(
        self,
        prompt: str,
        image: Any = None,
        max_gen_len: int = 512,
        temperature: float = 0.0,
        top_p: float = 0.95,
        additional_stop_symbols: Iterable[str] = (),
    ) -> Iterator[dict[str, Any]]:
        """The whole text so far after each token, as `{"text": ..., "end_of_content": ...}`."""
        options, signals = Options(max_gen_len, temperature, top_p), tuple(additional_stop_symbols)
        eos, decode = self.tokenizer.eos, self.tokenizer.decode
        (woven,) = self._woven([prompt], [picture(image)], max_gen_len)
        endings = TokenEndings(self.tokenizer, stop_sequences(self.tokenizer, ()))
        ids: list[int] = []
        for token in self.assistant.decoder.tokens(woven, options, endings):
            if token == eos:
                break
            ids.append(token)
            text = decode(ids)
            places = [place for signal in signals if (place := text.find(signal)) >= 0]
            if places:
                yield {"text": text[: places[0]], "end_of_content": True}
                return
            yield {"text": text, "end_of_content": False}
        yield {"text": decode(ids), "end_of_content": True}

    @checked_call
    def compute_logits(
        self,
        examples: Sequence[Text],
        images: Sequence[Any] | None = None,
        bos: bool = True,
        eos: bool = False,
    ) -> list[Tensor]:
        """For each text a row of logits a token."""
        rows = self._logits(examples, pictures(images, examples), bos, eos)
        return [logits for _, logits in rows]

    @checked_call
    def evaluate_examples(
        self,
        examples: Sequence[Text],
        contexts: Sequence[Text] | None = None,
        images: Sequence[Any] | None = None,
        bos: bool = True,
        eos: bool = False,
    ) -> dict[str, list[Any]]:
        """How likely texts are, of each what stands behind its context.

        Returns:
            Lists with an entry for each example: `log_likelihood` (summed over the tokens), `ppl` (the mean
            of its negative; the reference's name for it), `max_equal` (whether greedy writing would give
            just it), `non_context_logits`.

        Raises:
            SampleError: an example that does not begin with its context, or has nothing behind it.
        """
        names = ("log_likelihood", "ppl", "max_equal", "non_context_logits")
        found: dict[str, list[Any]] = {name: [] for name in names}
        scored = self._logits(examples, pictures(images, examples), bos, eos)
        for number, (ids, logits) in enumerate(scored):
            first = 1
            if contexts is not None:
                context = self._ids(contexts[number], bos, False)
                first = len(context)
                if ids[:first] != context or not context:
                    raise SampleError(
                        f"example {number + 1} does not begin with its context",
                        hint="an example is its context and what is scored behind it",
                    )
            if first >= len(ids):
                raise SampleError(f"example {number + 1} has no token to score")
            rows, target = logits[first - 1 : -1], torch.tensor(ids[first:], device=logits.device)
            # Token 0 is padding there and never counted.
            losses = torch.nn.functional.cross_entropy(
                rows, target, ignore_index=0, reduction="none"
            )
            greedy = bool((rows.argmax(-1) == target).all())
            row = (-float(losses.sum()), float(losses.mean()), greedy, rows)
            for name, value in zip(names, row, strict=True):
                found[name].append(value)
        return found

    # --- prompts as sequences ---

    def _logits(
        self, examples: Sequence[Text], media: Sequence[Sequence[Media]], bos: bool, eos: bool
    ) -> list[tuple[list[int], Tensor]]:
        """For each example its tokens and a row of logits a token."""
        rows = []
        for example, shows in zip(examples, media, strict=True):
            ids = self._ids(example, bos, eos)
            batch = self.assistant.batch([self._lay(ids, shows)])
            with self.assistant.process_group.together(), torch.inference_mode():
                logits = self.assistant.model(**batch.inputs()).logits[0].float()
            # The row in front of the second token is that of the last item, not of the first token.
            rows.append((ids, logits[len(logits) - len(ids) :]))
        return rows

    def _ids(self, text: Text, bos: bool = True, eos: bool = False) -> list[int]:
        if not isinstance(text, str):
            return list(text)
        ids: list[int] = self.tokenizer.encode(text)[0]
        begin, end = self.tokenizer.bos, self.tokenizer.eos
        return [*([begin] if bos else []), *ids, *([end] if eos else [])]

    def _lay(self, ids: Sequence[int], media: Sequence[Media], answer: int | None = None) -> Woven:
        """A prompt behind what it shows; one that leaves no place for its answer loses its beginning.

        Raises:
            ContextError: nothing of it is left; the reference recurses without end here or cuts it all off.
        """
        weave = self.assistant.processor.weave
        woven = weave(Sample((Turn("user", (*media, "?")),), "question"), True, 0)
        if answer is not None:
            taken, context = int((woven.owner != 0).sum()), weave.context
            assert context is not None
            left = context - taken - answer
            if left < 1:
                raise ContextError(
                    f"{taken} places of the picture and {answer} of the answer leave {left} of "
                    f"{context} for the question",
                    hint="ask for a shorter answer, or open the model with a greater max_seq_len",
                )
            ids = ids[-left:]
        return with_text(woven, ids)

    def _woven(
        self, prompts: Sequence[Text], media: Sequence[Sequence[Media]], answer: int
    ) -> list[Woven]:
        with self.assistant.process_group.agreed():
            pairs = zip(prompts, media, strict=True)
            return [self._lay(self._ids(prompt), shows, answer) for prompt, shows in pairs]


def _one(config: str | Path | Sequence[str | Path] | None) -> str | Path | None:
    """The one configuration file that is named.

    Raises:
        CheckpointError: several, which the reference lays over one another.
    """
    if config is None or isinstance(config, str | Path):
        return config
    if len(config) > 1:
        raise CheckpointError(
            f"llama_config names {len(config)} files", hint="write them into one and name that"
        )
    return config[0] if config else None
