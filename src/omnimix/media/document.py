"""Opening documents: plain text, Markdown, HTML and PDF become one text, or a `MediaError`."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from annotated_types import Gt

from omnimix.errors import MediaError
from omnimix.media.opening import MediaOpener, name_of, needed, read
from omnimix.media.tiles import Tiles
from omnimix.types import Media

_TAKES = "a text (str), or a file as Path or bytes"
_FORMATS = "the formats are plain text, Markdown and HTML in UTF-8, and PDF"
_HTML = re.compile(
    rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*<(!doctype\s+html|html|head|body)\b", re.I | re.S
)
_UNSEEN = ("script", "style", "template", "noscript", "head")
_BLOCKS = [
    "address",
    "article",
    "aside",
    "blockquote",
    "br",
    "dd",
    "div",
    "dl",
    "dt",
    "figcaption",
    "figure",
    "footer",
    "form",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "header",
    "hr",
    "li",
    "main",
    "nav",
    "ol",
    "p",
    "pre",
    "section",
    "table",
    "td",
    "th",
    "title",
    "tr",
    "ul",
]
# Control characters that no text holds: what they stand in is something else.
_BINARY = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f]")


class DocumentOpener(MediaOpener):
    """Texts: a `str` is the text itself, a `Path` or bytes are a file whose content says what it is.

    Attributes:
        max_bytes: most bytes a file may have.
        max_pages: most pages of a PDF.
        max_characters: longest text.
    """

    kind: Literal["document"] = "document"
    max_bytes: Annotated[int, Gt(0)] = 64 * 1024 * 1024
    max_pages: Annotated[int, Gt(0)] = 500
    max_characters: Annotated[int, Gt(0)] = 4_000_000

    def open(self, media: Media) -> str:
        """The text.

        Raises:
            MediaError: missing, broken, empty, no text, or beyond a limit.
        """
        where = name_of(media, "document")
        text = media.data
        if not isinstance(text, str):
            text = self._decode(read(text, "document", where, self.max_bytes, _TAKES), where)
        if len(text) > self.max_characters:
            raise MediaError(
                f"the text has {len(text)} characters; at most {self.max_characters} are taken",
                where=where,
                hint="cut it, or raise max_characters",
            )
        if not text.strip():
            raise MediaError("the document holds no text", where=where, hint="check its source")
        found: str = text
        return found

    def tiles(self, opened: str) -> Tiles:
        return Tiles.holding(opened)

    def _decode(self, content: bytes, where: str) -> str:
        if content.lstrip()[:5] == b"%PDF-":
            return self._pdf(content, where)
        text = _text(content, where)
        return _readable(text) if _HTML.match(content[:4096]) else text

    def _pdf(self, content: bytes, where: str) -> str:
        pdfium = needed("pypdfium2", "PDF files")
        try:
            file = pdfium.PdfDocument(content)
        except pdfium.PdfiumError as error:
            locked = "password" in str(error).lower()
            raise MediaError(
                "the PDF needs a password" if locked else "the PDF is damaged and cannot be opened",
                where=where,
                hint="save it without one" if locked else "export it again",
            ) from None
        try:
            if len(file) > self.max_pages:
                raise MediaError(
                    f"the PDF has {len(file)} pages; at most {self.max_pages} are taken",
                    where=where,
                    hint="cut it, or raise max_pages",
                )
            pages, length = [], 0
            for number in range(len(file)):
                pages.append(_page(file, number, where, pdfium))
                length += len(pages[-1])
                if length > self.max_characters:
                    break  # refused by its length
        finally:
            file.close()
        text = "\n\n".join(pages)
        if pages and not text.strip():
            raise MediaError(
                "the PDF holds no text, only pictures of it",
                where=where,
                hint="read it with OCR first, or send its pages as pictures",
            )
        return text


def _page(file: Any, number: int, where: str, pdfium: Any) -> str:
    try:
        page = file[number]
        try:
            text = page.get_textpage()
            try:
                found: str = text.get_text_range().replace("\r\n", "\n")
            finally:
                text.close()
        finally:
            page.close()
    except pdfium.PdfiumError as error:
        raise MediaError(
            f"page {number + 1} of the PDF is damaged ({error})",
            where=where,
            hint="export it again",
        ) from None
    return found


def _text(content: bytes, where: str) -> str:
    """The characters of a text file."""
    wide = content[:2] in (b"\xff\xfe", b"\xfe\xff")
    try:
        text = content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError:
        text = "\x00"
    if _BINARY.search(text):
        raise MediaError("this is no text", where=where, hint=_FORMATS)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _readable(html: str) -> str:
    """What a reader of a page sees, a line for each block."""
    soup = needed("bs4", "HTML").BeautifulSoup(html, "html.parser")
    title = soup.title.get_text(" ", strip=True) if soup.title else ""
    for tag in soup(list(_UNSEEN)):
        tag.decompose()
    for tag in soup(_BLOCKS):
        tag.insert_before("\n")
        tag.append("\n")
    lines = [" ".join(line.split()) for line in soup.get_text().split("\n")]
    body = "\n".join(line for line in lines if line)
    return f"{title}\n{body}" if title and not body.startswith(title) else body
