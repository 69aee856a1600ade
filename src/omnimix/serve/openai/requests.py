"""Bodies of OpenAI's API. Words that mean nothing here but do no harm are heard and passed over; others are refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from omnimix.config import validate
from omnimix.errors import OmnimixError, RecipeError, SampleError
from omnimix.generate.decoding import Options
from omnimix.serve.openai.parts import Content
from omnimix.serve.schema import Asked

MOST_CHOICES = 16
"""Answers to one request, at most."""


def _strings(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _or_string(schema: dict[str, Any]) -> None:
    schema["anyOf"] = [{"type": "string"}, *schema["anyOf"]]


Strings: TypeAlias = Annotated[
    Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=16)] | None,
    BeforeValidator(_strings),
    Field(json_schema_extra=_or_string),
]


class StreamOptions(Asked):
    """How a stream is told.

    Attributes:
        include_usage: the last chunk before the end counts the tokens.
        include_obfuscation: means nothing here.
    """

    include_usage: bool = False
    include_obfuscation: bool | None = None


class ResponseFormat(Asked):
    """What an answer is: text.

    Attributes:
        type: `text`; no other form is enforced.
    """

    type: Literal["text"]


class Sampling(Asked):
    """How an answer is written; what is left out is the server's choice.

    Attributes:
        model: its name (`GET /v1/models`); the server's where left out.
        temperature: 0 takes the likeliest token every time.
        top_p: with a temperature, only the likeliest tokens that together reach this share.
        top_k: with a temperature, only so many of the likeliest; 0 takes all.
        min_tokens: fewest tokens of the answer.
        presence_penalty, frequency_penalty, repetition_penalty: against saying things again.
        logit_bias: by token id, what is added to its logit.
        seed: of the sampling; of several answers the k-th takes seed + k.
        stop: one string or several that end the answer and are cut from it, beside the model's own ends.
        n: how many answers.
        stream: piece by piece, as server-sent events.
        stream_options: how.
        region_format: `parsed`: regions beside the text, in pixels; `raw`: the text as the model writes it, special
            tokens included, and nothing beside.
        regions_as: how regions reach the model: `tokens`, `text` or `marks`; its best where left out.
        user, metadata, store, service_tier, safety_identifier, prompt_cache_key: mean nothing here.
    """

    model: str | None = Field(default=None, max_length=500)
    temperature: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=0, lt=2**31)
    min_tokens: int | None = Field(default=None, ge=0)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    repetition_penalty: float | None = Field(default=None, gt=0, le=10)
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = Field(
        default=None, max_length=1024
    )
    seed: int | None = Field(default=None, ge=0, lt=2**62)
    stop: Strings = None
    n: int | None = Field(default=None, ge=1, le=MOST_CHOICES)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    region_format: Literal["parsed", "raw"] = "parsed"
    regions_as: Literal["tokens", "text", "marks"] | None = None
    user: Any = None
    metadata: Any = None
    store: Any = None
    service_tier: Any = None
    safety_identifier: Any = None
    prompt_cache_key: Any = None

    def most(self) -> tuple[str, int | None]:
        """The word for the most tokens of an answer, and what it says."""
        raise NotImplementedError

    def logprobs_wanted(self) -> int | None:
        """How many likely tokens are told at each place; None tells nothing."""
        return None

    def options(self, server: Options) -> Options:
        """The server's options with these in their place.

        Raises:
            OmnimixError: more tokens than the server writes, or a word that its engine does not know.
        """
        word, most = self.most()
        if most is not None and most > server.max_new_tokens:
            raise OmnimixError(
                f"{most} tokens are more than the {server.max_new_tokens} that this server writes",
                where=word,
                hint="ask for fewer, or start it with a larger --max-new-tokens",
            )
        chosen: dict[str, Any] = {
            "max_new_tokens": most,
            "min_new_tokens": self.min_tokens,
            "stop_strings": None if self.stop is None else tuple(self.stop),
            "pointing": self.regions_as,
            "logit_bias": self._biases(),
            "logprobs": self.logprobs_wanted(),
            **{name: getattr(self, name) for name in _SAME},
        }
        chosen = {name: value for name, value in chosen.items() if value is not None}
        return server.but(chosen) if chosen else server

    def _biases(self) -> dict[int, float] | None:
        if self.logit_bias is None:
            return None
        for word in self.logit_bias:
            if not re.fullmatch(r"\d{1,9}", word):
                raise OmnimixError(
                    f"{word[:20]!r} is no token id", where="logit_bias", hint='write {"42": -100}'
                )
        return {int(word): bias for word, bias in self.logit_bias.items()}


_SAME = (
    "temperature",
    "top_p",
    "top_k",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "seed",
)
"""Words that `Options` has too."""


class ChatMessage(Asked):
    """A turn of a conversation.

    Attributes:
        role: `developer` is `system`.
        content: a text, or parts in reading order.
        regions: on pictures of the conversation, each with `picture`, counted from 0, or on the last one; in an
            answer's message, which may come back as it was given, they are passed over: its text holds them.
        name, refusal, annotations, audio, tool_calls, function_call, skipped: of messages that come back as
            they were given; calls must be empty.
    """

    role: Literal["system", "developer", "user", "assistant"]
    content: Content = []
    regions: list[dict[str, Any]] = []
    name: str | None = None
    refusal: Any = None
    annotations: Any = None
    audio: None = None
    tool_calls: Annotated[list[Any], Field(max_length=0)] | None = None
    function_call: None = None
    skipped: Any = None

    @model_validator(mode="before")
    @classmethod
    def _of_people(cls, given: Any) -> Any:
        """Said before a word that only such turns have is called unknown."""
        role = given.get("role") if isinstance(given, Mapping) else None
        if role in ("tool", "function"):
            said = {"message": f"turns of a {role} are not taken", "path": ("role",)}
            raise PydanticCustomError("role", "{message}", said)
        return given


class ChatBody(Sampling):
    """The body of `POST /v1/chat/completions`.

    Attributes:
        messages: the conversation, the oldest turn first.
        max_tokens, max_completion_tokens: most tokens of the answer, at most as many as the server writes.
        logprobs: tell how likely each token was.
        top_logprobs: and how likely others were in its place.
        response_format: text.
        modalities: `["text"]`.
        tools, tool_choice: none are called; empty lists and `none` are heard.
        parallel_tool_calls, reasoning_effort, verbosity: mean nothing here.
    """

    messages: list[ChatMessage] = Field(min_length=1)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    response_format: ResponseFormat | None = None
    modalities: list[Literal["text"]] | None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: Any = None
    reasoning_effort: Any = None
    verbosity: Any = None

    def most(self) -> tuple[str, int | None]:
        if self.max_completion_tokens is not None:
            return "max_completion_tokens", self.max_completion_tokens
        return "max_tokens", self.max_tokens

    def logprobs_wanted(self) -> int | None:
        if self.top_logprobs is not None and not self.logprobs:
            raise OmnimixError(
                "top_logprobs needs logprobs", where="top_logprobs", hint='add "logprobs": true'
            )
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionBody(Sampling):
    """The body of `POST /v1/completions`: the text is a user's turn, as the model was trained to see it.

    Attributes:
        prompt: what is asked.
        max_tokens: most tokens of the answer.
        logprobs: how many likely tokens are told at each place.
        echo, suffix, best_of: only as they are when they are left out.
    """

    prompt: str = Field(min_length=1)
    max_tokens: int | None = Field(default=None, ge=1)
    logprobs: int | None = Field(default=None, ge=0, le=20)
    echo: Literal[False] | None = None
    suffix: None = None
    best_of: Literal[1] | None = None

    def most(self) -> tuple[str, int | None]:
        return "max_tokens", self.max_tokens

    def logprobs_wanted(self) -> int | None:
        return self.logprobs


Body = TypeVar("Body", bound=Asked)

_FORMS = {
    r"messages\.\d+\.content\.\d+": 'a part is {"type": "text", "text": "..."}, {"type": "image_url", "image_url": '
    '{"url": "data:image/png;base64,..."}} or another that docs/serving.md lists',
    r"messages\.\d+\.(role|tool_calls)": "roles are system, user and assistant; tools are not called",
    r"messages": '[{"role": "user", "content": "..."}] is a conversation',
    r"prompt": "one text; ask again for another",
    r"(tools|tool_choice|response_format)": "this server calls no tools and enforces no format",
}


def read(model: type[Body], body: Mapping[str, Any]) -> Body:
    """A body as a request.

    Raises:
        SampleError: the first word that is missing, unknown or of another type, with its place.
    """
    try:
        return validate(model, body, "request")
    except RecipeError as error:
        place = (error.where or "").removeprefix("request").removeprefix(": ")
        form = next((form for pattern, form in _FORMS.items() if re.match(pattern, place)), None)
        raise SampleError(error.what, where=place or None, hint=form) from None
