"""Other people's clients of OpenAI's API, each asked once; in an environment of its own (`pip install langchain-openai litellm`).

    python -m tests.peers.openai_clients http://127.0.0.1:7860

Exits with 0 when every client that is installed got an answer, a stream and the picture's region.
"""

from __future__ import annotations

import base64
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

SCENE = Path(__file__).parents[2] / "examples" / "scene.png"
URL = "data:image/png;base64," + base64.b64encode(SCENE.read_bytes()).decode()
CONTENT: list[Any] = [
    {"type": "image_url", "image_url": {"url": URL}},
    {"type": "text", "text": "Where is the star?"},
]


def langchain(base: str) -> list[str]:
    """An answer and a stream by LangChain."""
    from langchain_core.messages import HumanMessage
    from langchain_openai import ChatOpenAI

    model = ChatOpenAI(base_url=base, api_key="none", model="nano", max_tokens=40)
    asked = [HumanMessage(content=CONTENT)]
    return [str(model.invoke(asked).content), "".join(str(c.content) for c in model.stream(asked))]


def litellm(base: str) -> list[str]:
    """The same by LiteLLM."""
    from litellm import completion

    words: dict[str, Any] = {
        "model": "openai/nano",
        "api_base": base,
        "api_key": "none",
        "messages": [{"role": "user", "content": CONTENT}],
        "max_tokens": 40,
    }
    whole = completion(**words).choices[0].message.content
    pieces = completion(**words, stream=True)
    return [whole, "".join(chunk.choices[0].delta.content or "" for chunk in pieces)]


def main(address: str) -> int:
    clients: list[Callable[[str], list[str]]] = [langchain, litellm]
    asked = 0
    for client in clients:
        try:
            whole, streamed = client(f"{address.rstrip('/')}/v1")
        except ModuleNotFoundError as error:
            print(f"{client.__name__}: left out, {error.name} is not installed")
            continue
        if not whole.startswith("[") or whole != streamed:
            print(f"{client.__name__}: {whole!r}, streamed {streamed!r}")
            return 1
        print(f"{client.__name__}: {whole}")
        asked += 1
    return 0 if asked else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
