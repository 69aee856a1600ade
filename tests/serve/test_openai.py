"""The API that OpenAI's clients speak, asked by OpenAI's own client over real connections."""

from __future__ import annotations

import base64
import io
import time
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from omnimix.compose.model import MultimodalLM
from omnimix.compose.processor import Processor
from omnimix.generate.assistant import Assistant
from omnimix.generate.decoding import Options
from omnimix.serve.app import Settings, create_app
from omnimix.serve.batched import Batched
from omnimix.serve.engine import OneAtATime
from omnimix.serve.items import ItemReader
from omnimix.types import Box, Media, Point, Sample, Turn
from omnimix_scenes import Scenes
from tests.serve.live import live

KEY = "a-key-of-the-tests"
PICTURE = Scenes(7, "heldout").question("list", 0).media("image")[0].data
BOX = {"box": [10, 10, 60, 60]}


def png(picture: Any = PICTURE) -> bytes:
    held = io.BytesIO()
    picture.save(held, "PNG")
    return held.getvalue()


URL = "data:image/png;base64," + base64.b64encode(png()).decode()


@pytest.fixture(scope="module")
def assistant(tiny_model: MultimodalLM, tiny_processor: Processor) -> Assistant:
    return Assistant(tiny_model, tiny_processor)


@pytest.fixture(scope="module")
def engine(assistant: Assistant) -> Batched:
    return Batched(assistant, "tiny")


@pytest.fixture(scope="module")
def address(engine: Batched, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    root = tmp_path_factory.mktemp("root")
    PICTURE.save(root / "a.png")
    options = Options(max_new_tokens=100)
    settings = Settings(ItemReader(root), options, keys=(KEY,), max_items=4)
    with live(create_app(engine, settings)) as found:
        yield found


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{address}/v1", api_key=KEY, max_retries=0) as made:
        yield made


def user(*content: Any, **words: Any) -> list[Any]:
    return [{"role": "user", "content": list(content), **words}]


def text(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said}


def picture(**words: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": URL, **words}}


def replied(assistant: Assistant, *parts: Any, **options: Any) -> str:
    return assistant.reply(Sample((Turn("user", parts),)), **options).text


def ask(client: openai.OpenAI, messages: Any, **words: Any) -> Any:
    return client.chat.completions.create(
        **{"model": "tiny", "max_tokens": 8, **words}, messages=messages
    )


def test_models_say_what_a_page_needs(client: openai.OpenAI) -> None:
    (model,) = client.models.list()
    facts: Any = client.models.retrieve("tiny").model_dump()
    assert model.id == facts["id"] == "tiny"
    assert [row["types"] for row in facts["modalities"]] == [["image_url"]]
    assert facts["modalities"][0]["limits"]["max_pixels"] > 0
    assert facts["regions"]["accepted"] == ["point", "box", "polygon", "stroke", "mask"]
    assert facts["max_tokens"] == 100 and facts["max_context"] > 100
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt")


def test_an_answer_is_that_of_the_assistant(client: openai.OpenAI, assistant: Assistant) -> None:
    answer = ask(client, user(picture(), text("What is it?")))
    wanted = assistant.reply(
        Sample((Turn("user", (Media.image(PICTURE), "What is it?")),)), max_new_tokens=8
    )
    assert answer.choices[0].message.content == wanted.text
    assert answer.usage.completion_tokens == wanted.tokens
    assert answer.usage.prompt_tokens == wanted.prompt_tokens > 0
    assert answer.choices[0].finish_reason == ("stop" if wanted.finished else "length")


def test_a_stream_is_the_answer(client: openai.OpenAI) -> None:
    words = {"temperature": 2.0, "seed": 3, "max_tokens": 40}
    whole = ask(client, user(picture(), text("What?")), **words)
    chunks = list(
        ask(
            client,
            user(picture(), text("What?")),
            **words,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    said = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert len(chunks) > 4 and said == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].usage == whole.usage and not chunks[-1].choices
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason


def test_several_answers_and_seeds(client: openai.OpenAI) -> None:
    words = {"temperature": 2.0, "n": 3, "max_tokens": 12}
    many = [ask(client, user(text("Say.")), **words, seed=5) for _ in range(2)]
    texts = [[choice.message.content for choice in one.choices] for one in many]
    assert texts[0] == texts[1] and len(set(texts[0])) > 1
    other = ask(client, user(text("Say.")), temperature=2.0, max_tokens=12, seed=6)
    assert other.choices[0].message.content == texts[0][1], "the k-th takes seed + k"
    streamed: dict[int, str] = {}
    for chunk in ask(client, user(text("Say.")), **words, seed=5, stream=True):
        for choice in chunk.choices:
            told = choice.delta.content or ""
            streamed[choice.index] = streamed.get(choice.index, "") + told
    assert [streamed[i] for i in range(3)] == texts[0]


def test_a_stop_string_ends_and_is_cut(client: openai.OpenAI) -> None:
    words = {"temperature": 2.0, "seed": 3, "max_tokens": 30}
    whole = ask(client, user(text("Say.")), **words, stop=["never said"])
    said = whole.choices[0].message.content
    stop = said[len(said) // 2 :][:3]
    cut = ask(client, user(text("Say.")), **words, stop=stop)
    assert cut.choices[0].message.content == said[: said.find(stop)].strip()
    assert cut.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("raw", [{}, {"region_format": "raw"}])
def test_a_stop_string_within_the_fewest_tokens_is_text(client: openai.OpenAI, raw: Any) -> None:
    words = {"temperature": 2.0, "seed": 3, "max_tokens": 30}
    said = ask(client, user(text("Say.")), **words).choices[0].message.content
    rest = {**words, "stop": said[2:5], "extra_body": {"min_tokens": 12, **raw}}
    answer = ask(client, user(text("Say.")), **rest)
    held = answer.choices[0].message.content
    assert held.startswith(said[:5]) and answer.usage.completion_tokens >= 12
    pieces = ask(client, user(text("Say.")), **rest, stream=True)
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in pieces)
    assert streamed.strip() == held


def test_logprobs(client: openai.OpenAI) -> None:
    answer = ask(client, user(text("Say.")), logprobs=True, top_logprobs=2, max_tokens=4)
    rows = answer.choices[0].logprobs.content
    assert len(rows) == answer.usage.completion_tokens
    for row in rows:
        assert row.logprob <= 0 and len(row.top_logprobs) == 2
        assert row.top_logprobs[0].logprob >= row.top_logprobs[1].logprob
        assert row.logprob == pytest.approx(row.top_logprobs[0].logprob), "greedy takes the first"
    plain = client.completions.create(model="tiny", prompt="Say.", logprobs=2, max_tokens=4)
    assert plain.choices[0].logprobs is not None


@pytest.mark.parametrize(
    ("content", "words", "parts"),
    [
        ([picture(regions=[BOX]), text("What is in the box?")], {}, ("What is in ", 0, "?")),
        ([text("What is in the box?"), picture(regions=[BOX])], {}, ("What is in ", 0, "?")),
        ([{**picture(), "regions": [BOX]}, text("Is <region> it?")], {}, ("Is ", 0, " it?")),
        ([picture(), text("Is {1} it?")], {"regions": [BOX]}, ("Is ", 0, " it?")),
        (
            [picture(), text("Is "), {"type": "region", "region": BOX}, text(" it?")],
            {},
            ("Is ", 0, " it?"),
        ),
    ],
    ids=["beside", "behind", "mark", "message", "inline"],
)
def test_regions_reach_the_model(
    client: openai.OpenAI, assistant: Assistant, content: Any, words: Any, parts: Any
) -> None:
    answer = ask(client, user(*content, **words))
    said = [Media.region(Box(10, 10, 60, 60)) if part == 0 else part for part in parts]
    wanted = replied(assistant, Media.image(PICTURE), *said, max_new_tokens=8)
    assert answer.choices[0].message.content == wanted


def test_regions_name_their_picture(client: openai.OpenAI, assistant: Assistant) -> None:
    second = picture(regions=[{"point": [5, 5]}])
    messages = user(picture(), second, text("{1} or {2}?"), regions=[{**BOX, "picture": 0}])
    answer = ask(client, messages)
    media = [Media.image(PICTURE), Media.image(PICTURE)]
    marks = [Media.region(Point(5, 5), 1), Media.region(Box(10, 10, 60, 60), 0)]
    wanted = replied(assistant, *media, marks[0], " or ", marks[1], "?", max_new_tokens=8)
    assert answer.choices[0].message.content == wanted


def test_an_item_is_named_again(client: openai.OpenAI) -> None:
    words = [text("What is it?")]
    first = ask(client, user({**picture(), "uuid": "mine"}, *words))
    again = ask(client, user({"type": "image_url", "image_url": None, "uuid": "mine"}, *words))
    assert again.choices[0].message.content == first.choices[0].message.content
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, user({"type": "image_url", "image_url": None, "uuid": "yours"}, *words))
    assert caught.value.code == "unknown_item"


def sound() -> str:
    held = io.BytesIO()
    with wave.open(held, "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(bytes(3200))
    return base64.b64encode(held.getvalue()).decode()


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        ({"type": "input_audio", "input_audio": {"data": sound(), "format": "wav"}}, "audio"),
        ({"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AAAA"}}, "video"),
        ({"type": "file", "file": {"file_data": "data:text/plain,hello"}}, "document"),
    ],
)
def test_what_the_model_lacks_is_refused_by_name(
    client: openai.OpenAI, part: Any, kind: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=f"takes no {kind}"):
        ask(client, user(part, text("What?")))


LONE = [{"role": "user", "content": "Hello"}]


@pytest.mark.parametrize(
    ("words", "error", "param", "says"),
    [
        ({"model": "gpt"}, openai.NotFoundError, "model", "Ask 'tiny'"),
        ({"max_tokens": 101}, openai.BadRequestError, "max_tokens", "the 100 that this server"),
        ({"extra_body": {"tmperature": 1}}, openai.BadRequestError, None, "'temperature'"),
        ({"temperature": -1}, openai.BadRequestError, "temperature", "greater than or equal"),
        ({"n": 17}, openai.BadRequestError, "n", "16"),
        ({"top_logprobs": 2}, openai.BadRequestError, "top_logprobs", "needs logprobs"),
        ({"logit_bias": {"x": 1}}, openai.BadRequestError, "logit_bias", "no token id"),
        (
            {"tools": [{"type": "function", "function": {"name": "f"}}]},
            openai.BadRequestError,
            "tools",
            "calls no tools",
        ),
        ({"messages": []}, openai.BadRequestError, "messages", "at least 1"),
        (
            {"messages": [*LONE, {"role": "assistant", "content": "Hi"}]},
            openai.BadRequestError,
            "messages",
            "the last message is no user's",
        ),
        (
            {"messages": user(text("x"), {"type": "image", "source": "a.png"})},
            openai.BadRequestError,
            "messages.0.content.1",
            "did you mean 'image_url'",
        ),
        (
            {"messages": user({"type": "image_url", "image_url": {"url": "../a.png"}})},
            openai.PermissionDeniedError,
            "messages[0].content[0]",
            "leads out",
        ),
        (
            {"messages": user(*[picture()] * 5)},
            openai.BadRequestError,
            "messages",
            "this server takes 4",
        ),
        (
            {"messages": user(picture(regions=[BOX]), text("<region> <region>"))},
            openai.BadRequestError,
            "messages[0]",
            "2 <region> for 1 regions",
        ),
        (
            {"messages": [*LONE, {"role": "tool", "tool_call_id": "x", "content": "3"}]},
            openai.BadRequestError,
            "messages.1.role",
            "turns of a tool are not taken",
        ),
        (
            {"messages": user(picture(regions=[{**BOX, "picture": 9}]), text("Hm?"))},
            openai.BadRequestError,
            "messages[0].content[0].regions[0]",
            "beside picture 0 says that it lies on picture 9",
        ),
        (
            {"messages": user(picture(), text("Hm?"), regions=[{**BOX, "picture": 1}])},
            openai.BadRequestError,
            None,
            "picture 1, counted from 0, but 1 came",
        ),
        ({"messages": user(text("word " * 3000))}, openai.BadRequestError, None, "context"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_refusals(
    client: openai.OpenAI, words: Any, error: Any, param: str | None, says: str, stream: bool
) -> None:
    with pytest.raises(error) as caught:
        ask(client, **{"messages": LONE, "stream": stream, **words})
    assert says in caught.value.body["message"]
    if param is not None:
        assert caught.value.param == param


def test_words_that_mean_nothing_are_heard(client: openai.OpenAI) -> None:
    words = {"user": "me", "metadata": {"a": "b"}, "store": False, "tool_choice": "none"}
    answer = ask(client, LONE, **words, extra_body={"service_tier": "auto"})
    sent_back = [*LONE, answer.choices[0].message.model_dump(), *LONE]
    assert ask(client, sent_back).choices[0].message.content is not None


def test_keys(address: str) -> None:
    for key in ("another-key", KEY[:-1], f"{KEY}x"):
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=f"{address}/v1", api_key=key, max_retries=0).models.list()


def test_who_leaves_frees_the_engine(client: openai.OpenAI, engine: Batched) -> None:
    stream = ask(client, user(text("Say.")), temperature=2.0, max_tokens=100, stream=True)
    next(iter(stream))
    stream.close()
    with pytest.raises(openai.APITimeoutError):
        ask(client.with_options(timeout=0.001), user(text("Say.")), max_tokens=100)
    until = time.monotonic() + 20
    while engine.health()["waiting"] and time.monotonic() < until:
        time.sleep(0.01)
    assert engine.health()["waiting"] == 0


def test_responses(client: openai.OpenAI, assistant: Assistant) -> None:
    content: Any = [
        {"type": "input_image", "image_url": URL, "detail": "auto"},
        {"type": "input_text", "text": "What is it?"},
    ]
    asked: Any = [{"role": "user", "content": content}]
    words: Any = {"model": "tiny", "max_output_tokens": 16, "input": asked}
    wanted = replied(assistant, Media.image(PICTURE), "What is it?", max_new_tokens=16)
    whole = client.responses.create(**words)
    assert whole.output_text == wanted and whole.usage is not None
    again: Any = [*asked, *[one.model_dump() for one in whole.output], *asked]
    assert client.responses.create(**{**words, "input": again}).output_text is not None
    events: Any = list(client.responses.create(**words, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == wanted
    assert events[-1].type == f"response.{whole.status}"
    assert events[-1].response.output_text == wanted


def test_the_shipped_model_points(tmp_path: Path) -> None:
    import omnimix

    scene = (Path(__file__).parents[2] / "examples" / "scene.png").read_bytes()
    url = "data:image/png;base64," + base64.b64encode(scene).decode()
    asked = user({"type": "image_url", "image_url": url}, text("Where is the star?"))
    app = create_app(OneAtATime(omnimix.load("nano"), "nano"))
    with live(app) as found, openai.OpenAI(base_url=f"{found}/v1", api_key="none") as client:
        message = ask(client, asked, model="nano", max_tokens=40).choices[0].message
        (region,) = message.regions
        assert region["kind"] == "box" and len(region["box"]) == 4 and region["picture"] == 0
        assert message.content[region["start"] : region["end"]].startswith("[")
        chunks = list(ask(client, asked, model="nano", max_tokens=40, stream=True))
        deltas = [c.choices[0].delta for c in chunks if c.choices]
        assert [r for d in deltas for r in getattr(d, "regions", None) or ()] == [region]
        raw = ask(client, asked, model="nano", max_tokens=40, extra_body={"region_format": "raw"})
        assert raw.choices[0].message.content == message.content
        assert not hasattr(raw.choices[0].message, "regions")


def test_stops_are_added_to_the_models_own(
    client: openai.OpenAI, assistant: Assistant, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = replied(assistant, "Hm?", max_new_tokens=8)
    template = assistant.processor.recipe.template
    assert len(whole) > 2 and template.stop_strings
    words = {"max_tokens": 8}
    said = ask(client, user(text("Hm?")), **words, stop=[])
    assert said.choices[0].message.content == whole
    own = whole[1:3]
    monkeypatch.setitem(template.__dict__, "stop_strings", (own,))
    for stop in ([], "never", ["never"]):
        said = ask(client, user(text("Hm?")), **words, stop=stop)
        assert said.choices[0].message.content == whole[: whole.index(own)].strip()
        done = client.completions.create(model="tiny", prompt="Hm?", **words, stop=stop)
        assert done.choices[0].text == whole[: whole.index(own)].strip()
        raw = ask(
            client, user(text("Hm?")), **words, stop=stop, extra_body={"region_format": "raw"}
        )
        assert raw.choices[0].message.content == whole[: whole.index(own)].strip()
