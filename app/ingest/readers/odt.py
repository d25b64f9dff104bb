from html import escape
from xml.etree import ElementTree  # the package has been checked: it declares no entities

from app.errors import DocumentRefused
from app.ingest.formats import ODT
from app.ingest.readers import Allowance, Reading, package, too_long
from app.ingest.readers.html import to_markdown

_CONTENT = "content.xml"
_MAX_REPEATED = 100
# Remarks, what was deleted, and what is drawn from elsewhere are not what the text says.
_LEFT_OUT = {
    "annotation",
    "tracked-changes",
    "sequence-decls",
    "forms",
    "table-of-content",
    "script",
    "ruby-text",
}
_TAGS = {
    "p": "p",
    "list": "ul",
    "list-item": "li",
    "list-header": "li",
    "table": "table",
    "table-row": "tr",
    "table-cell": "td",
    "text-box": "div",
    "note": "span",
}
_CHARACTERS = {"tab": " ", "line-break": "<br>", "soft-page-break": ""}


def read(content: bytes, allowance: Allowance) -> Reading:
    with package.opened(content, ODT.name) as parts:
        if _CONTENT not in parts.names:
            raise parts.mistaken("some other ZIP archive")
        parts.check(doctypes=True)
        if "META-INF/manifest.xml" in parts.names and b":encryption-data" in parts.small(
            "META-INF/manifest.xml"
        ):
            raise DocumentRefused(
                "encrypted", "The document is protected with a password. Save it without one and try again."
            )
        root = ElementTree.fromstring(parts.archive.read(_CONTENT))  # noqa: S314  # as above
        title = parts.title("meta.xml") if "meta.xml" in parts.names else None
    html: list[str] = []
    for part in root:
        if _name(part) == "body":
            _write(part, html)
    text, heading = to_markdown("".join(html))
    if len(text) > allowance.characters:
        raise too_long(allowance.characters)
    if not text:
        raise DocumentRefused("no_text", "The document holds no text. Text in pictures cannot be read.")
    return Reading(text, title=title or heading)


def _write(element: ElementTree.Element, html: list[str]) -> None:
    """As HTML, which our own reader takes on."""
    name = _name(element)
    tag = f"h{_level(element)}" if name == "h" else _TAGS.get(name)
    if tag:
        html.append(f"<{tag}>")
    if name == "s":
        html.append(" ")
    elif name == "note":
        html.append(" (")
    html += [_CHARACTERS.get(name, ""), escape(element.text or "")]
    for child in element:
        if _name(child) not in _LEFT_OUT:
            for _ in range(_times(child)):
                _write(child, html)
        html.append(escape(child.tail or ""))
    if name == "note":
        html.append(")")
    if tag:
        html.append(f"</{tag}>")


def _name(element: ElementTree.Element) -> str:
    """Without the namespace: the names that matter mean the same in all of them."""
    return element.tag.rpartition("}")[2]


def _attribute(element: ElementTree.Element, name: str) -> str | None:
    return next((value for key, value in element.items() if key.rpartition("}")[2] == name), None)


def _level(element: ElementTree.Element) -> int:
    level = _attribute(element, "outline-level") or ""
    return min(max(int(level), 1), 6) if level.isdecimal() else 1


def _times(element: ElementTree.Element) -> int:
    """A cell that stands in several columns is written once. One that is repeated without end fills up a sheet."""
    if _name(element) != "table-cell" or not "".join(element.itertext()).strip():
        return 1
    times = _attribute(element, "number-columns-repeated") or ""
    return min(int(times), _MAX_REPEATED) if times.isdecimal() else 1
