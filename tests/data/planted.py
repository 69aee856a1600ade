"""A dataset of every sense with one fault a row, and the same without faults."""

from __future__ import annotations

import io
import json
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.compose.senses import picture, wave

HOLDS = "A cup \u2028 on a table"


def write_media(folder: Path) -> None:
    """Pictures, a sound and frames of a video, whole and broken."""
    for i in range(60):
        picture(i).save(folder / f"{i}.png")
    picture(1).resize((300, 200)).save(folder / "whole.jpg")
    content = (folder / "whole.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(content[: len(content) // 2])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "page.jpg").write_text("<!doctype html><html><body>404 Not Found</body></html>")
    (folder / "bomb.png").write_bytes(bomb())
    grey = np.linspace(0, 65535, 600).reshape(20, 30).astype(np.uint16)
    Image.fromarray(grey).save(folder / "deep.png")
    Image.new("CMYK", (30, 20), (10, 20, 30, 40)).save(folder / "cmyk.jpg")
    turned = Image.Exif()
    turned[0x0112] = 6
    picture(2).save(folder / "turned.jpg", exif=turned)
    (folder / "sound.wav").write_bytes(wave())
    (folder / "cut.wav").write_bytes(wave()[:-3000])
    (folder / "noframes.mp4").write_bytes(b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom")


def bomb() -> bytes:
    """A small PNG file of 40,000 x 40,000 pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        body = name + data
        return len(data).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")

    size = (40_000).to_bytes(4, "big")
    head = size + size + b"\x01\0\0\0\0"
    parts = (chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(b"\0" * 100)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def turns(*parts: Any, answer: Any = ("A cup.",), **words: Any) -> dict[str, Any]:
    says = [{"role": "user", "content": list(parts)}, {"role": "assistant", "content": answer}]
    return {"turns": says, **words}


def talk(
    asked: str = "<image>Who?", answer: Any = "A cup.", roles: Any = ("human", "gpt"), **words: Any
) -> dict[str, Any]:
    said = [{"from": roles[0], "value": asked}, {"from": roles[1], "value": answer}]
    return {"conversations": said, **words}


def boxed(*box: float, name: str = "0.png") -> dict[str, Any]:
    return turns({"image": name}, "What is ", {"box": list(box)}, "?")


TALKS: dict[str, tuple[dict[str, Any], str]] = {
    "missing file": (talk(image="gone.png"), "cannot read the picture"),
    "truncated": (talk(image="cut.jpg"), "damaged"),
    "zero bytes": (talk(image="empty.jpg"), "empty.jpg"),
    "bomb": (talk(image="bomb.png"), "40000 x 40000|too large"),
    "html": (talk(image="page.jpg"), "no picture that can be opened"),
    "more marks": (talk("<image><image>?", image="0.png"), "2 marks <image> for 1 pictures"),
    "more pictures": (talk(image=["0.png", "1.png"]), "1 marks <image> for 2 pictures"),
    "null answer": (talk(answer=None, image="3.png"), "null, not text"),
    "empty answer": (talk(answer="  ", image="4.png"), "empty answer"),
    "all masked": (
        {"conversations": [{"from": "human", "value": "Only asked"}]},
        "no token to learn",
    ),
    "unknown role": (talk(roles=("human", "robot"), image="5.png"), "unknown role 'robot'"),
    "roles swapped": (talk(roles=("gpt", "human"), image=None, asked="x"), "'user' was expected"),
    "duplicate id": (talk(image="6.png", id="fine-0"), "the id 'fine-0' is that of row 1"),
    "leaves": (talk(image="../secret.png"), "lies outside"),
    "too long": (talk(answer="word " * 3000, image="7.png"), "more than the context of"),
    "surrogate": (talk(answer="x \ud83d", image="8.png"), "surrogate"),
    "nul": (talk(answer="x \0 y", image="9.png"), "NUL"),
    "video": (talk("<video>What?", video="noframes.mp4"), "noframes.mp4"),
    "sound": (talk("<audio>What?", audio="cut.wav"), "cut"),
}
"""Rows with a fault, and what is said about it."""

FINE = [
    talk(image="deep.png", id="fine-0"),
    talk(image="cmyk.jpg"),
    talk(image="turned.jpg"),
    talk(answer=HOLDS, image="10.png"),
    talk("<audio>What?", audio="sound.wav"),
    *(talk(f"<image>Who is {i}?", image=f"{i}.png", id=f"row {i}") for i in range(11, 31)),
]

BOXES: dict[str, tuple[dict[str, Any], str]] = {
    "outside": (boxed(100, 100, 120, 120), "outside"),
    "shares": (boxed(0.1, 0.2, 0.8, 0.9), "within 0..1"),
    "thousandths": (boxed(3, 5, 940, 870), "may be thousandths"),
    "nan": (boxed(1, 2, float("nan"), 4), "not finite"),
    "no area": (boxed(5, 5, 5, 9), "no extent"),
    "small": (boxed(5, 5, 5.4, 9), "smaller than a pixel"),
}

FINE_BOXES = [boxed(i, i, 20 + i, 15, name=f"{30 + i}.png") for i in range(5)]


def write(path: Path, rows: list[dict[str, Any]], mark: bytes = b"\xef\xbb\xbf") -> Path:
    """As JSON lines behind a byte order mark, U+2028 as it is and halves of pairs as escapes."""
    text = "".join(f"{json.dumps(row, ensure_ascii='ud83d' in json.dumps(row))}\n" for row in rows)
    path.write_bytes(mark + text.encode())
    return path


def write_shard(path: Path, bad: bool) -> Path:
    with tarfile.open(path, "w") as tar:
        for name in ("1", *(("../2",) if bad else ())):
            file = io.BytesIO()
            picture(40).save(file, "PNG")
            for ending, content in (("png", file.getvalue()), ("txt", b"A cup.")):
                info = tarfile.TarInfo(f"{name}.{ending}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path
