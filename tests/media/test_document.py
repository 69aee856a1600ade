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


PAGE = "<p>Caf\u00e9 by the sea.</p>"
PAGES = {
    "a byte order mark": f"\ufeff<!doctype html><title>Tides</title>{PAGE}".encode(),
    "UTF-16 with a mark": f"<html><title>Tides</title>{PAGE}".encode("utf-16"),
    "UTF-16 without one": f"<html><title>Tides</title>{PAGE}".encode("utf-16-be"),
    "UTF-16, the other": f"<html><title>Tides</title>{PAGE}".encode("utf-16-le"),
    "UTF-32": f"<html><title>Tides</title>{PAGE}".encode("utf-32"),
    "title first": f"<title>Tides</title>{PAGE}".encode(),
    "meta first": f"<meta charset=utf-8><title>Tides</title>{PAGE}".encode(),
    "div first": f"<div><h1>Tides</h1>{PAGE}</div>".encode(),
    "h1 first": f"<h1>Tides</h1>{PAGE}".encode(),
    "a long comment first": f"<!--{'- x' * 5000}--><html><title>Tides</title>{PAGE}".encode(),
    "head not closed": f"<!doctype html><html><head><title>Tides</title>{PAGE}".encode(),
    "head with its body": f"<html><head><title>Tides</title>{PAGE}</head></html>".encode(),
    "head closed twice": f"<head><title>Tides</title></head></head>{PAGE}".encode(),
    "head behind the body": f"<body><title>Tides</title>{PAGE}</body><head></head>".encode(),
    "a script that is not closed before it": (
        f"<html><head><title>Tides</title><style>p {{}}</style><link rel=x>{PAGE}<script>x"
    ).encode(),
    "links in a head that is open": (
        f"<!DOCTYPE html><head><title>Tides</title><link rel=a><base href=b>{PAGE}"
    ).encode(),
    "heads within heads": f"<head><head><title>Tides</title>{PAGE}".encode(),
    "upper case": f"<HTML><HEAD><TITLE>Tides</TITLE>{PAGE}".encode(),
    "noscript in the head": (
        f"<head><title>Tides</title><noscript><style>p {{}}</style></noscript>{PAGE}"
    ).encode(),
    "text in the head": "<head><title>Tides</title>Caf\u00e9 by the sea.".encode(),
    "XHTML": f"<?xml version='1.0' encoding='utf-8'?><html><title>Tides</title>{PAGE}".encode(),
    "Latin-1": f"<meta charset=iso-8859-1><title>Tides</title>{PAGE}".encode("latin-1"),
    "Windows": f"<meta charset='windows-1252'><title>Tides</title>{PAGE}".encode("cp1252"),
    "by http-equiv": (
        '<meta http-equiv="Content-Type" content="text/html; charset=ISO-8859-15">'
        f"<title>Tides</title>{PAGE}"
    ).encode("iso-8859-15"),
    "XML's encoding": (
        f"<?xml version='1.0' encoding='ISO-8859-1'?><html><title>Tides</title>{PAGE}"
    ).encode("latin-1"),
    "a stale declaration": f"<meta charset=latin1><title>Tides</title>{PAGE}".encode(),
}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_decoded_before_it_is_guessed(name: str) -> None:
    assert text_of(PAGES[name]) == "Tides\nCaf\u00e9 by the sea."


@pytest.mark.parametrize(
    ("charset", "codec"),
    [
        ("Shift_JIS", "cp932"),
        ("EUC-JP", "euc_jp"),
        ("ISO-2022-JP", "iso2022_jp"),
        ("GB2312", "gb18030"),
        ("Big5", "big5"),
    ],
)
def test_pages_of_the_east(charset: str, codec: str) -> None:
    page = f"<meta charset={charset}><p>\u6d77\u5cb8</p>".encode(codec)
    assert text_of(page) == "\u6d77\u5cb8"


TEXTS = [
    '<h1 align="center">Name</h1>\n\n# Use\n\n- one\n- two\n',
    "<p>\n\n**bold** and [a link](there)\n",
    "a < b and <i>so</i> on",
    "<note>of XML</note>",
    "<!-- never closed",
    "Files begin with %PDF-1.4 and end so.",
    "if x <p> y",
]


@pytest.mark.parametrize("text", TEXTS)
def test_what_is_no_page_stays_as_it_is(text: str) -> None:
    assert text_of(text.encode()) == text


BEFORE = [
    *(b"\xef\xbb\xbf", b"\n\n", b"\0\0\0junk", b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 1000),
    *(b"\xff\xfe", b" ", b"%!PS-Adobe-3.0 PDF-1.4\n", b"<!-- made by hand -->\n", b"\x1a\r\n"),
    *(b"--frame\r\nContent-Type: application/pdf\r\n\r\n", b"% PDF\n"),
]


@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("behind", [b"", b"\r\n--frame--\r\n" + b"\0" * 500])
def test_a_pdf_between_other_bytes(before: bytes, behind: bytes) -> None:
    assert text_of(before + pdf(["First page", "Second"]) + behind) == "First page\n\nSecond"


@pytest.mark.parametrize(
    "lines",
    [
        ["This is a long exam-", "ple of hyphenation"],
        ["ab-", "cd"],
        ["self-", "aware self-", "aware"],
        ["one exam-", "ple and an-", "other and a third, hy-", "phenated"],
        ["from 1990-", "95"],
        ["North-", "South"],
        ["the end -", "of a clause"],
        ["two --", "dashes"],
        ["an end-"],
        ["(exam-", "ple)"],
        ["-", "-"],
        ["x-y-", "z"],
    ],
    ids=" ".join,
)
def test_a_hyphen_at_the_end_of_a_line(lines: list[str]) -> None:
    escaped = [line.replace("(", r"\(").replace(")", r"\)") for line in lines]
    assert text_of(pdf([") Tj 0 -14 Td (".join(escaped)])) == "\n".join(lines)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<meta charset=utf-8><p>caf\xe9", "says that it is in utf-8, and is not"),
        (b"<meta charset=nonsense><p>caf\xe9", "this is no text"),
        (b"<meta charset=rot13><p>caf\xe9", "is not"),
        (b"\xff\xfea", "this is no text"),
        (b"\xff\xfe\0\0abc", "this is no text"),
    ],
)
def test_what_is_in_no_encoding(content: bytes, message: str) -> None:
    with pytest.raises(MediaError, match=message):
        text_of(content)
