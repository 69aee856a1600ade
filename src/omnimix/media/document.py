"""Opening documents: plain text, Markdown, HTML and PDF become one text, or a `MediaError`."""

from __future__ import annotations

import codecs
import re
from typing import Annotated, Any, Literal

from annotated_types import Gt

from omnimix.errors import MediaError
from omnimix.media.opening import MediaOpener, name_of, needed, read
from omnimix.media.tiles import Tiles
from omnimix.types import Media

_TAKES = "a text (str), or a file as Path or bytes"
_FORMATS = "the formats are plain text, Markdown and HTML in UTF-8 or what they declare, and PDF"
_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
# What pages that declare the first are written in, by the rules of HTML.
_MEANT = {
    "iso8859-1": "cp1252",
    "ascii": "cp1252",
    "iso8859-9": "cp1254",
    "iso8859-11": "cp874",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
    "big5": "big5hkscs",
}
_PDF = re.compile(rb"%PDF-\d")
_HTML = re.compile(r"<(!doctype\s+html|html|head|body|title|meta|link|base|style|script)\b", re.I)
# A Markdown file may begin with one of these as well.
_PART = re.compile(
    r"<(a|article|aside|b|br|center|div|dl|em|figure|font|footer|form|h[1-6]|header|hr|i|img|main|nav|ol|p|pre"
    r"|section|span|strong|table|ul)\b[^<>]*>",
    re.I,
)
_XML = re.compile(r"^\s*<\?xml[^>]*>")
_MARKDOWN = re.compile(r"^(#{1,6} |```|[-*+] |> |\d+\. )|\]\(|\*\*", re.M)
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
        return text

    def tiles(self, opened: str) -> Tiles:
        return Tiles.holding(opened)

    def _decode(self, content: bytes, where: str) -> str:
        pdf = _PDF.search(content, 0, 1024)  # readers of PDF look for it so far
        if pdf is not None and (b" obj" in content or not content[: pdf.start()].strip()):
            return self._pdf(content[pdf.start() :], where)
        text = _text(content, where)
        return _readable(text) if _is_html(text) else text

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
                found = found.replace("\ufffe", "-\n")  # a hyphen at the end of a line
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
    """The characters of a text file: by its mark, as UTF-8, or by what it declares."""
    marked = next((name for mark, name in _MARKS.items() if content.startswith(mark)), None)
    try:
        text = content.decode(marked or _wide(content) or "utf-8").removeprefix("\ufeff")
        declared = None if marked else _declared(content)
        if declared is not None and declared.startswith("iso2022"):  # ASCII, as it seems
            text = content.decode(declared)
    except UnicodeDecodeError:
        text = "\0" if marked else _as_declared(content, where)
    if _BINARY.search(text):
        raise MediaError("this is no text", where=where, hint=_FORMATS)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _wide(content: bytes) -> str | None:
    """UTF-16 without a mark, by the zeros in its first characters, or None."""
    odd, even = content[1:80:2], content[0:80:2]
    if odd and len(content) % 2 == 0:
        if odd.count(0) > len(odd) * 0.7 and 0 not in even:
            return "utf-16-le"
        if even.count(0) > len(even) * 0.7 and 0 not in odd:
            return "utf-16-be"
    return None


def _declared(content: bytes) -> str | None:
    """The encoding that a page or an XML file names, in Python's spelling; None where there is none."""
    found = re.search(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([\w.:-]+)", content[:4096], re.I)
    found = found or re.match(
        rb"\s*<\?xml[^>]{0,200}?encoding\s*=\s*[\"']([\w.:-]+)", content[:4096]
    )
    if found is None:
        return None
    try:
        name = codecs.lookup(found[1].decode("ascii", "replace")).name
    except LookupError:
        return None
    return _MEANT.get(name, name)


def _as_declared(content: bytes, where: str) -> str:
    declared = _declared(content)
    if declared is None:
        raise MediaError("this is no text", where=where, hint=_FORMATS)
    try:
        return content.decode(declared)
    except (UnicodeError, LookupError):  # a name of Python that stands for no encoding of text
        raise MediaError(
            f"the document says that it is in {declared}, and is not",
            where=where,
            hint="save it as UTF-8",
        ) from None


def _is_html(text: str) -> bool:
    """By the first tag behind comments and declarations."""
    start = text.lstrip()
    while start.startswith(("<!--", "<?")):
        comment = start.startswith("<!--")
        end = start.find("-->" if comment else ">")
        if end < 0:
            return False
        start = start[end + (3 if comment else 1) :].lstrip()
    if _HTML.match(start):
        return True
    return bool(_PART.match(start)) and not _MARKDOWN.search(text)


def _readable(html: str) -> str:
    """What a reader of a page sees, a line for each block."""
    needed("lxml", "HTML")
    soup = needed("bs4", "HTML").BeautifulSoup(_XML.sub("", html), "lxml")
    title = soup.title.get_text(" ", strip=True) if soup.title else ""
    for tag in soup(list(_UNSEEN)):
        tag.decompose()
    for tag in soup(_BLOCKS):
        tag.insert_before("\n")
        tag.append("\n")
    lines = [" ".join(line.split()) for line in soup.get_text().split("\n")]
    body = "\n".join(line for line in lines if line)
    return f"{title}\n{body}" if title and not body.startswith(title) else body
