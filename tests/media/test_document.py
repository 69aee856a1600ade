"""Documents: texts, files whose content says what they are, and tokens of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from omnimix.errors import MediaError, RecipeError
from omnimix.media.document import DocumentOpener
from omnimix.media.files import looking_in
from omnimix.media.several import kind_of
from omnimix.media.text_steps import NOTHING, Tokenize
from omnimix.media.tiles import Tiles
from omnimix.types import Media
from tests.contracts.test_registry import write_tokenizer

HTML = b"""<!DOCTYPE html><html><head><title>Tides</title><style>p {color: red}</style></head>
<body><h1>High   water</h1><p>Twice a <b>day</b>.</p><script>alert(1)</script>
<ul><li>spring</li><li>neap &amp; more</li></ul></body></html>"""


def pdf(pages: list[str]) -> bytes:
    """A PDF written by hand: one line of text on each page."""
    objects = [b"<< /Type /Catalog /Pages 2 0 R >>"]
    kids = " ".join(f"{3 + 2 * i} 0 R" for i in range(len(pages)))
    objects.append(f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>".encode())
    font = "<< /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >>"
    for i, text in enumerate(pages):
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 300 100] /Resources {font} "
            f"/Contents {4 + 2 * i} 0 R >>".encode()
        )
        drawn = f"BT /F1 12 Tf 20 50 Td ({text}) Tj ET".encode() if text else b""
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(drawn), drawn))
    found, places = b"%PDF-1.4\n", []
    for i, one in enumerate(objects, start=1):
        places.append(len(found))
        found += b"%d 0 obj\n%s\nendobj\n" % (i, one)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    start = len(found)
    found += b"xref\n0 %d\n0000000000 65535 f \n%s" % (len(objects) + 1, table)
    return found + b"trailer << /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF" % (
        len(objects) + 1,
        start,
    )


def text_of(data: object, **words: int) -> str:
    return DocumentOpener(**words).open(Media.document(data))


def test_a_text_is_itself() -> None:
    text = "Two lines,\r\n  kept as they are.\n"
    assert text_of(text) == text
    assert text_of("/etc/hosts") == "/etc/hosts"  # a text names no file


def test_files(tmp_path: Path) -> None:
    contents = {
        "a.md": (b"# A title\n\nText.", "# A title\n\nText."),
        "b.pdf": ("näh\r\nso".encode(), "näh\nso"),  # the content decides
        "c.txt": ("\ufeffmark".encode(), "mark"),
        "d.txt": ("wide ü".encode("utf-16"), "wide ü"),
        "e.txt": (HTML, "Tides\nHigh water\nTwice a day.\nspring\nneap & more"),
        "f.txt": (pdf(["First page", "Second"]), "First page\n\nSecond"),
        "g.txt": (b"a < b and <i>so</i> on", "a < b and <i>so</i> on"),
    }
    for name, (content, wanted) in contents.items():
        (tmp_path / name).write_bytes(content)
        assert text_of(tmp_path / name) == wanted
        assert text_of(content) == wanted
    assert DocumentOpener().open(Media.document(tmp_path / "a.md")).startswith("# A")


PDF = pdf(["one", "two", "three"])
BROKEN = {
    "empty": (b"", "the file is empty"),
    "blank": ("  \n", "holds no text"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(50), "this is no text"),
    "a sound": (b"RIFF\x00\x01\x00\x00WAVEfmt " + bytes(9), "this is no text"),
    "latin": ("näh".encode("latin-1"), "this is no text"),
    "half a PDF": (PDF[: len(PDF) // 3], "damaged"),
    "no PDF": (b"%PDF-1.4\nnothing", "damaged"),
    "a scan": (pdf([""]), "only pictures of it"),
    "many pages": (pdf(["a"] * 4), "4 pages; at most 3 are taken"),
    "long": ("a" * 201, "201 characters; at most 200"),
    "a long file": (b"a" * 3001, "more than 3000 bytes"),
    "no such file": (Path("gone.txt"), "cannot read the document"),
    "a folder": (Path("/tmp"), "cannot read the document"),
    "nothing": (None, "cannot be made of NoneType"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_refused(name: str) -> None:
    data, message = BROKEN[name]
    opener = DocumentOpener(max_pages=3, max_characters=200, max_bytes=3000)
    with pytest.raises(MediaError, match=message) as caught:
        opener.open(Media.document(data, label="the paper"))
    assert caught.value.where == "the paper"


@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.txt"])
def test_tokens_and_chunks(name: str, tmp_path: Path) -> None:
    write_tokenizer(tmp_path / name)
    text = "one two three four " * 10
    with looking_in([tmp_path]):
        whole = Tokenize(path=name)(Tiles.holding(text)).tensor()
        assert whole.shape == (1, 64)
        ids = whole[whole != NOTHING].tolist()
        words = [i for i in ids if i not in (1, 2)]  # BERT's file brings [CLS] and [SEP]
        assert words == [5, 6, 7, 8] * 10
        assert (ids[0] == 1 and ids[-1] == 2) == (name == "vocab.txt")
        step = Tokenize(path=name, max_length=12, chunks=3, pad_to_multiple_of=8)
        parts = step(Tiles.holding(text)).tensor()
        assert parts.shape == (3, 12)
        again = [i for i in parts.flatten().tolist() if i not in (1, 2, NOTHING)]
        assert again == words[: len(again)] and len(again) >= 30
        cut = Tokenize(path=name, max_length=12, pad_to_multiple_of=8)(Tiles.holding(text)).tensor()
        assert cut.tolist() == parts[:1].tolist()
    with pytest.raises(RecipeError, match="not there"):
        Tokenize(path=name)(Tiles.holding(text))
    (tmp_path / "other.json").write_text("{}")
    with looking_in([tmp_path]), pytest.raises(RecipeError, match="no tokenizer"):
        Tokenize(path="other.json")(Tiles.holding(text))


def test_what_an_item_is_its_content_says(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (4, 4)).save(tmp_path / "a.wav", format="PNG")
    (tmp_path / "b.png").write_bytes(b"RIFF\x00\x01\x00\x00WAVEfmt ")
    (tmp_path / "c.mp3").write_text("a text")
    found = [
        kind_of(Media("imagebind", str(tmp_path / name))) for name in ("a.wav", "b.png", "c.mp3")
    ]
    assert found == ["image", "audio", "document"]
    assert kind_of(Media("imagebind", "only words")) == "document"
    assert kind_of(Media("imagebind", ([0.0], 8000))) == "audio"
    assert kind_of(Media("imagebind", b"\x00\x00\x00\x18ftypmp42")) == "video"
