import re
from collections.abc import Iterable, Sequence
from contextlib import closing
from typing import Protocol, cast

import pypdfium2
import pypdfium2.raw as pdfium

from app.errors import DocumentRefused
from app.ingest.readers import Allowance, Reading, clean, one_line, pdf_pages, too_long
from app.ingest.readers.pdf_layout import HYPHEN
from app.ingest.readers.pdf_pages import Page

_MAX_PAGES = 50_000
_MAX_LABEL = 20
_PAGE_GAP = "\n\n"
_HYPHENATED = re.compile(rf"(\w*)[{HYPHEN}\xad]\n?(\w*)")
_FILE_AS_TITLE = re.compile(r"(?i)^(untitled|microsoft word - .*|.*\.\w{2,4})$")


class _TextPage(Protocol):
    @property
    def raw(self) -> object: ...
    def get_text_range(self) -> str: ...
    def close(self) -> None: ...


class _PdfPage(Protocol):
    @property
    def raw(self) -> object: ...
    def get_textpage(self) -> _TextPage: ...
    def get_objects(self, *, filter: Sequence[int], max_depth: int) -> Iterable[object]: ...  # noqa: A002  # its name
    def flatten(self) -> int: ...
    def close(self) -> None: ...


class _Document(Protocol):
    """What is used of `pypdfium2.PdfDocument`, which is typed in part."""

    @property
    def formenv(self) -> object | None: ...
    def __len__(self) -> int: ...
    def get_page(self, index: int) -> _PdfPage: ...
    def get_page_label(self, index: int) -> str: ...
    def get_metadata_value(self, key: str) -> str: ...
    def get_formtype(self) -> int: ...
    def init_forms(self) -> bool: ...
    def close(self) -> None: ...


def read(content: bytes, allowance: Allowance) -> Reading:
    try:
        document = cast("_Document", pypdfium2.PdfDocument(content, password=allowance.password))
    except pypdfium2.PdfiumError as error:
        if error.err_code == pdfium.FPDF_ERR_PASSWORD:  # pyright: ignore[reportUnknownMemberType]  # typed in part
            raise _locked(allowance.password is not None) from error
        raise DocumentRefused("broken", "The PDF is damaged: it has no readable structure.") from error
    with closing(document):
        return _read(document, allowance.characters)


def _locked(password_given: bool) -> DocumentRefused:
    if password_given:
        return DocumentRefused(
            "encrypted", "The PDF opens only with a password, and it is not the one given."
        )
    return DocumentRefused(
        "encrypted",
        "The PDF opens only with a password. Give it, or save the PDF without one, and try again.",
    )


def _read(document: _Document, limit: int) -> Reading:
    count = len(document)
    if count > _MAX_PAGES:
        raise DocumentRefused(
            "too_large", f"The PDF says that it has {count:,} pages; at most {_MAX_PAGES:,} can be read."
        )
    if count and document.get_formtype() != pdfium.FORMTYPE_NONE:
        document.init_forms()
    pages: list[Page] = []
    damaged: list[str] = []
    pictures: list[str] = []
    labels = [_label(document, index) for index in range(count)]
    room = limit
    for index, label in enumerate(labels):
        try:
            page, has_picture = _page(document, index, pages[-1] if pages else Page([]))
        except (pypdfium2.PdfiumError, RecursionError, ValueError):
            page, has_picture = Page([]), False
            damaged.append(label)
        if has_picture:
            pictures.append(label)
        room -= sum(map(len, page.lines)) + len(page.lines) + len(_PAGE_GAP)
        if room < 0:
            raise too_long(limit)
        pages.append(page)
    texts = pdf_pages.without_running(pages)
    if not any(texts):
        raise _without_text(count, damaged, pictures)
    texts = _join_hyphenated(texts)
    return Reading(
        _PAGE_GAP.join(texts),
        title=_title(document),
        pages=_spans(texts, labels),
        warnings=tuple(_warnings(damaged, pictures)),
    )


def _page(document: _Document, index: int, before: Page) -> tuple[Page, bool]:
    """What is read on a page, and whether it has a picture in place of text."""
    page = document.get_page(index)
    if document.formenv is not None:
        # What was typed into the fields of a form becomes part of the page, then the page is read anew.
        page.flatten()
        page.close()
        page = document.get_page(index)
    with closing(page), closing(page.get_textpage()) as textpage:
        text = textpage.get_text_range()
        if text and not text.isspace():
            return pdf_pages.read(page.raw, textpage.raw, text, before), False
        return Page([]), any(True for _ in page.get_objects(filter=[pdfium.FPDF_PAGEOBJ_IMAGE], max_depth=3))


def _label(document: _Document, index: int) -> str:
    return clean(document.get_page_label(index)).strip()[:_MAX_LABEL] or str(index + 1)


def _title(document: _Document) -> str | None:
    title = one_line(document.get_metadata_value("Title"))
    return None if title is None or _FILE_AS_TITLE.match(title) else title


def _spans(texts: Sequence[str], labels: Sequence[str]) -> tuple[tuple[str, int, int], ...]:
    spans: list[tuple[str, int, int]] = []
    start = 0
    for text, label in zip(texts, labels, strict=True):
        spans.append((label, start, start + len(text)))
        start += len(text) + len(_PAGE_GAP)
    return tuple(spans)


def _join_hyphenated(texts: list[str]) -> list[str]:
    """Words broken at the end of a line become whole. A hyphen that belongs to the word (`well-known`) is kept where the
    document shows it: both halves are words of it by themselves, and the whole is not."""
    if not any(HYPHEN in text or "\xad" in text for text in texts):
        return texts
    words = {
        word.lower()
        for text in texts
        for word in re.findall(r"(?<![\w\ufffe\xad])\w+(?![\w\ufffe\xad])", text)
    }

    def whole(match: re.Match[str]) -> str:
        left, right = match[1], match[2]
        joined = (left + right).lower()
        both = left.lower() in words and right.lower() in words
        belongs = right[:1].isupper() or right[:1].isdigit() or (both and joined not in words)
        return f"{left}-{right}" if belongs and match[0][len(left)] == HYPHEN else left + right

    return [_HYPHENATED.sub(whole, text) for text in texts]


def _without_text(count: int, damaged: list[str], pictures: list[str]) -> DocumentRefused:
    if pictures:
        return DocumentRefused(
            "no_text",
            "The PDF holds pictures of pages but no text: it looks scanned. Run text recognition (OCR) on it first.",
        )
    if count == 0 or len(damaged) == count:
        return DocumentRefused("broken", "The PDF is damaged: none of its pages can be read.")
    return DocumentRefused("no_text", "The PDF holds no text.")


def _warnings(damaged: list[str], pictures: list[str]) -> list[str]:
    warnings: list[str] = []
    if damaged:
        warnings.append(
            f"{_named(damaged)} could not be read and {'is' if len(damaged) == 1 else 'are'} left out."
        )
    if pictures:
        warnings.append(
            f"{_named(pictures)} {'has a picture' if len(pictures) == 1 else 'have pictures'} but no text, as if scanned."
        )
    return warnings


def _named(labels: list[str]) -> str:
    if len(labels) == 1:
        return f"Page {labels[0]}"
    shown = ", ".join(labels[:9])
    return f"Pages {shown} and {len(labels) - 9} more" if len(labels) > 9 else f"Pages {shown}"
