import posixpath
from collections.abc import Iterator
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree  # the package has been checked: it declares no entities

from app.errors import DocumentRefused
from app.ingest.formats import EPUB
from app.ingest.headings import heading, headings, lowered
from app.ingest.readers import Allowance, Draft, Reading, html, one_line, package
from app.ingest.readers.package import Package

_CONTAINER = "META-INF/container.xml"
_PAGES = ("application/xhtml+xml", "text/html", "application/x-dtbook+xml")
# What is encrypted with these are fonts, which everybody may decrypt.
_OF_FONTS = ("http://www.idpf.org/2008/embedding", "http://ns.adobe.com/pdf/enc#RC")


def read(content: bytes, allowance: Allowance) -> Reading:
    """The chapters in their order, each under the heading that it or the table of contents has."""
    with package.opened(content, EPUB.name) as parts:
        if _CONTAINER not in parts.names:
            raise parts.mistaken("some other ZIP archive")
        parts.check(doctypes=True)
        _check_rights(parts)
        return _read(parts, allowance)


def _read(parts: Package, allowance: Allowance) -> Reading:
    rootfile = next(_elements(_tree(parts, _CONTAINER), "rootfile"), None)
    opf = rootfile.get("full-path", "") if rootfile is not None else ""
    if opf not in parts.names:
        raise DocumentRefused("broken", "The book is damaged: it does not say where its chapters are.")
    book = _tree(parts, opf)
    title = next((one_line(element.text) for element in _elements(book, "title")), None)
    names = _contents(parts, book, opf)
    draft = Draft(allowance.characters)
    left_out: list[str] = []
    for path in _chapters(book, opf):
        try:
            chapter = html.read(parts.archive.read(path), Allowance(allowance.characters))
        except KeyError:
            left_out.append(f"Chapter {one_line(path)} is not in the book.")
        except DocumentRefused as refused:
            # Covers and pictures are chapters without text.
            if refused.reason != "no_text":
                left_out.append(f"Chapter {one_line(path)}: {refused.message}")
        else:
            own = chapter.title if not names and chapter.title != title else None
            draft.add(_under_heading(chapter, names.get(path, own)))
    if not draft.text:
        raise DocumentRefused("no_text", "The book holds no text. Text in pictures cannot be read.")
    return Reading(draft.text, title=title, warnings=tuple(left_out))


def _under_heading(chapter: Reading, name: str | None) -> str:
    """Some books have their headings in pictures; then `name` becomes it."""
    text = lowered(chapter.text, 0)
    has_heading = next(headings(text), None) is not None
    return text if has_heading or name is None else f"{heading(1, name)}\n\n{text}"


def _contents(parts: Package, book: ElementTree.Element, opf: str) -> dict[str, str]:
    """What the table of contents calls each page, by its path; in the form of EPUB 2 or 3, whichever there is."""
    named: dict[str, str] = {}
    for item in _elements(book, "item"):
        is_contents = (
            item.get("media-type") == "application/x-dtbncx+xml"
            or "nav" in item.get("properties", "").split()
        )
        path = _path(opf, item.get("href", ""))
        if not is_contents or path not in parts.names:
            continue
        try:
            tree = _tree(parts, path)
        except ElementTree.ParseError:
            continue
        for entry in [*_elements(tree, "navPoint"), *_elements(tree, "a")]:
            link = next(_elements(entry, "content"), entry)
            label = next(_elements(entry, "navLabel"), entry)
            if name := one_line("".join(label.itertext())):
                named.setdefault(_path(path, link.get("src") or link.get("href") or ""), name)
    return named


def _chapters(book: ElementTree.Element, opf: str) -> Iterator[str]:
    """The paths of the pages in the order of reading."""
    paths = {
        item.get("id"): _path(opf, item.get("href", ""))
        for item in _elements(book, "item")
        if item.get("media-type") in _PAGES
    }
    for reference in _elements(book, "itemref"):
        if path := paths.get(reference.get("idref")):
            yield path


def _path(opf: str, href: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(opf), unquote(urlsplit(href).path)))


def _check_rights(parts: Package) -> None:
    if "META-INF/encryption.xml" not in parts.names:
        return
    methods = _elements(_tree(parts, "META-INF/encryption.xml"), "EncryptionMethod")
    if any(method.get("Algorithm") not in _OF_FONTS for method in methods):
        raise DocumentRefused(
            "encrypted", "The book is encrypted: only the reader it was sold for can open it."
        )


def _tree(parts: Package, name: str) -> ElementTree.Element:
    return ElementTree.fromstring(parts.archive.read(name))  # noqa: S314  # as above


def _elements(tree: ElementTree.Element, name: str) -> Iterator[ElementTree.Element]:
    return (element for element in tree.iter() if element.tag.rpartition("}")[2] == name)
