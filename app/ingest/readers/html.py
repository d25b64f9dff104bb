"""HTML to Markdown-like text, in one pass over the tags and without a tree, so that no nesting is too deep for it.

Headings, lists, tables and code keep their shape; emphasis and links keep their words only. What surrounds a page's text
is left out: navigation, scripts, hidden parts, and all but `<main>` where there is one with text.
"""

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser

from app.errors import DocumentRefused
from app.ingest.readers import Allowance, Reading, clean, one_line, too_long
from app.ingest.readers.text import decode

_CHARSET_WITHIN = 4096
_CHARSET = re.compile(
    rb"<meta[^>]{0,300}?charset\s*=\s*[\"']?\s*([\w.:-]{1,40})|<\?xml[^>]{0,100}?encoding\s*=\s*[\"']([\w.:-]{1,40})",
    re.IGNORECASE,
)

_SKIPPED = frozenset(
    [
        "script",
        "style",
        "nav",
        "template",
        "noscript",
        "svg",
        "math",
        "iframe",
        "object",
        "canvas",
        "audio",
        "video",
        "select",
        "datalist",
        "button",
        "dialog",
    ]
)
_BLOCKS = frozenset(
    [
        "address",
        "article",
        "aside",
        "blockquote",
        "body",
        "caption",
        "center",
        "dd",
        "details",
        "div",
        "dl",
        "dt",
        "fieldset",
        "figcaption",
        "figure",
        "footer",
        "form",
        "header",
        "hr",
        "html",
        "legend",
        "main",
        "p",
        "section",
        "summary",
    ]
)
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
# Only these may be hidden as a whole: the end of others may be left out, so that it would not be known where they end.
_HIDEABLE = frozenset(
    ["article", "aside", "div", "section", "span", "footer", "header", "form", "figure", "ul", "ol", "table"]
)
_SPACE = re.compile(r"[ \t\n\r\f\xa0]+")
_MAX_CELL = 400
_MAX_LIST_DEPTH = 8
_MAIN_AT_LEAST = 200


@dataclass(slots=True)
class _Block:
    text: str
    tight: bool = False
    heading: bool = False
    main: bool = False


@dataclass(slots=True)
class _Table:
    before: list[_Block] = field(default_factory=list["_Block"])
    rows: list[list[list[_Block]]] = field(default_factory=list["list[list[_Block]]"])


def read(content: bytes, allowance: Allowance) -> Reading:
    html, warnings = decoded(content, allowance)
    text, title = to_markdown(html)
    if len(text) > allowance.characters:
        raise too_long(allowance.characters)
    if not text:
        raise DocumentRefused(
            "no_text", "The page holds no text. Text that only a script writes into it cannot be read."
        )
    return Reading(text, title=title, warnings=warnings)


def decoded(content: bytes, allowance: Allowance) -> tuple[str, tuple[str, ...]]:
    """The characters of the page, and warnings."""
    found = _CHARSET.search(content[:_CHARSET_WITHIN])
    hint = (found[1] or found[2]).decode("ascii") if found else None
    # Markup is mostly longer than its text, so a page may have more characters than its text.
    return decode(content, 4 * allowance.characters, hint=hint)


def to_markdown(html: str) -> tuple[str, str | None]:
    """The text and the title: that of `<title>`, else the first heading."""
    writer = _Writer()
    writer.feed(html)
    writer.close()
    blocks = writer.finish()
    heading = next((block.text.lstrip("# ") for block in blocks if block.heading), None)
    return _joined(blocks), one_line(writer.title) or one_line(heading)


class _Writer(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.title = ""
        self._in_title = False
        self._skipping: str | None = None
        self._skip_depth = 0
        self._targets: list[list[_Block]] = [[]]
        self._tables: list[_Table] = []
        self._lists: list[int | None] = []
        self._marker: str | None = None
        self._inline: list[str] = []
        self._heading = 0
        self._pre = 0
        self._main = 0

    def finish(self) -> list[_Block]:
        self._flush()
        while self._tables:
            self._end_table()
        return self._targets[0]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._skipping is not None:
            self._skip_depth += tag == self._skipping
        elif tag in _SKIPPED or (tag in _HIDEABLE and _hidden(attrs)):
            self._flush()
            self._skipping, self._skip_depth = tag, 1
        elif tag == "title":
            self._in_title = not self.title
        else:
            self._start(tag, attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        # `<div/>` opens a division in HTML, but XHTML means an empty one: nothing would close what it skips.
        if self._skipping is None and tag not in _SKIPPED:
            self._start(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        if self._skipping is not None:
            self._skip_depth -= tag == self._skipping
            if self._skip_depth == 0:
                self._skipping = None
        elif tag == "title":
            self._in_title = False
        else:
            self._end(tag)

    def handle_data(self, data: str) -> None:
        if self._skipping is not None:
            return
        if self._in_title:
            self.title += data
        else:
            self._inline.append(data)

    def _start(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _HEADINGS:
            self._flush()
            self._heading = _HEADINGS[tag]
        elif tag == "br":
            self._inline.append("\n" if self._pre else " \x00")
        elif tag == "img":
            self._inline.append(next((value for name, value in attrs if name == "alt" and value), ""))
        elif tag == "li":
            self._start_item()
        elif tag in ("ul", "ol"):
            self._flush()
            self._lists.append(1 if tag == "ol" else None)
        elif tag == "pre":
            self._flush()
            self._pre += 1
        elif tag in ("table", "tr", "td", "th"):
            self._start_in_table(tag)
        elif tag in _BLOCKS:
            self._flush()
            self._main += tag == "main"

    def _end(self, tag: str) -> None:
        if tag in _HEADINGS or tag in _BLOCKS or tag == "li":
            self._flush()
            self._heading = 0
            self._main -= tag == "main" and self._main > 0
        elif tag in ("ul", "ol"):
            self._flush()
            self._marker = None
            if self._lists:
                self._lists.pop()
        elif tag == "pre" and self._pre:
            self._flush()
            self._pre -= 1
        elif tag in ("td", "th"):
            self._flush()
        elif tag == "table" and self._tables:
            self._flush()
            self._end_table()

    def _start_item(self) -> None:
        self._flush()
        number = self._lists[-1] if self._lists else None
        self._marker = "- " if number is None else f"{number}. "
        if self._lists and number is not None:
            self._lists[-1] = number + 1

    def _start_in_table(self, tag: str) -> None:
        self._flush()
        if tag == "table":
            self._tables.append(_Table())
            self._targets.append(self._tables[-1].before)
        elif self._tables:
            table = self._tables[-1]
            if tag == "tr" or not table.rows:
                table.rows.append([])
            if tag != "tr":
                table.rows[-1].append([])
                self._targets[-1] = table.rows[-1][-1]

    def _end_table(self) -> None:
        """A table of short cells becomes a table, or lines if it is in a cell itself; one that only lays out a page
        becomes what is in its cells."""
        table = self._tables.pop()
        self._targets.pop()
        self._targets[-1].extend(table.before)
        rows = [row for row in table.rows if any(row)]
        main = self._main > 0
        if max((len(row) for row in rows), default=0) < 2 or not all(
            _is_short(cell) for row in rows for cell in row
        ):
            self._targets[-1].extend(block for row in rows for cell in row for block in cell)
        elif self._tables:
            self._targets[-1].extend(
                _Block(", ".join(filter(None, map(_flat, row))), main=main) for row in rows
            )
        else:
            self._targets[-1].append(
                _Block(as_table([[_flat(cell) for cell in row] for row in rows]), main=main)
            )

    def _flush(self) -> None:
        """Ends the paragraph, heading, list item or code block that is being collected."""
        raw = "".join(self._inline)
        self._inline.clear()
        if self._pre:
            text = raw.replace("\x00", "\n").strip("\n")
            text = f"```\n{text}\n```" if text.strip() else ""
        else:
            text = "\n".join(filter(None, (_SPACE.sub(" ", line).strip() for line in raw.split("\x00"))))
        if not text:
            return
        block = _Block(text, main=self._main > 0)
        if self._heading and not self._pre:
            block.text, block.heading = f"{'#' * self._heading} {' '.join(text.split())}", True
        elif self._lists or self._marker:
            block.tight = self._marker is not None
            block.text = self._as_item(text)
        self._targets[-1].append(block)

    def _as_item(self, text: str) -> str:
        indent = "  " * min(max(len(self._lists) - 1, 0), _MAX_LIST_DEPTH)
        first, self._marker = self._marker or "  ", None
        rest = "\n" + indent + " " * len(first)
        return indent + first + rest.join(text.split("\n"))


def _hidden(attrs: list[tuple[str, str | None]]) -> bool:
    return any(name == "hidden" and value != "until-found" for name, value in attrs)


def _is_short(cell: list[_Block]) -> bool:
    return sum(len(block.text) for block in cell) <= _MAX_CELL and not any(
        block.heading or "```" in block.text for block in cell
    )


def _flat(cell: list[_Block]) -> str:
    return " ".join(" ".join(block.text for block in cell).split())


def as_table(rows: list[list[str]]) -> str:
    """A table of Markdown, whose first row is its header."""
    width = max(len(row) for row in rows)
    lines: list[str] = []
    for row in rows:
        cells = [" ".join(cell.split()).replace("|", "\\|") for cell in row]
        lines.append("| " + " | ".join(cells + [""] * (width - len(cells))) + " |")
        if len(lines) == 1:
            lines.append("|" + " --- |" * width)
    return "\n".join(lines)


def _joined(blocks: list[_Block]) -> str:
    inside = [block for block in blocks if block.main]
    if sum(len(block.text) for block in inside) >= _MAIN_AT_LEAST:
        blocks = inside
    pieces: list[str] = []
    for index, block in enumerate(blocks):
        if index:
            pieces.append("\n" if block.tight and blocks[index - 1].tight else "\n\n")
        pieces.append(block.text)
    return clean("".join(pieces)).strip()
