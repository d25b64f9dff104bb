"""The headings of Markdown, read and written: lines that start with `#`, and lines underlined with `=` or `-`, outside of code blocks."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

DEEPEST = 6
"""The innermost level that Markdown has."""

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_ATX = re.compile(r" {0,3}(#{1,6})[ \t]")
_UNDERLINE = re.compile(r" {0,3}(=+|-+)\s*$")
_NO_PARAGRAPH = re.compile(r"\s*$|\s*(?:[>|#*+-]|\d+[.)])[ \t]| {4}|.*\|.*\|")
_FRONT_MATTER = re.compile(r"---\n(?:(?!---|\.\.\.).*\n){0,500}(?:---|\.\.\.)[ \t]*(?:\n|\Z)")


_MARK = re.compile(r"^( {0,3})(?=#{1,6}[ \t]|`{3}|~{3}|=+[ \t]*$|-+[ \t]*$)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Heading:
    """`markdown[start:end]` are its lines; level 1 is the outermost."""

    start: int
    end: int
    level: int
    text: str


def front_matter(markdown: str) -> str:
    """The block of settings between `---` lines that some documents start with, or nothing."""
    found = _FRONT_MATTER.match(markdown)
    return found[0] if found else ""


def headings(markdown: str) -> Iterator[Heading]:
    position = len(front_matter(markdown))
    fence = previous = ""
    previous_start = position
    for line in markdown[position:].splitlines(keepends=True):
        start, position = position, position + len(line)
        mark = _FENCE.match(line)
        paragraph = ""
        if fence:
            if mark and mark[1].startswith(fence) and not line[mark.end() :].strip():
                fence = ""
        elif mark:
            fence = mark[1]
        elif (atx := _ATX.match(line)) and (text := _without_closing(line[atx.end() :])):
            yield Heading(start, position, len(atx[1]), text)
        elif previous and (underline := _UNDERLINE.match(line)):
            yield Heading(previous_start, position, 1 if underline[1][0] == "=" else 2, previous.strip())
        elif not _NO_PARAGRAPH.match(line):
            paragraph = line
        previous_start, previous = start, paragraph


def literal(text: str) -> str:
    """Markdown that says the same as this text, which is none: no line of it is a heading or the fence of a code block."""
    return _MARK.sub(r"\1\\", text)


def heading(level: int, text: str) -> str:
    return f"{'#' * min(level, DEEPEST)} {' '.join(text.split())}"


def lowered(markdown: str, levels: int) -> str:
    """The same under a heading of level `levels`: its own headings are below that one, and no code block is left open."""
    before = front_matter(markdown)
    pieces: list[str] = [literal(before)]
    position = len(before)
    for one in headings(markdown):
        pieces += [markdown[position : one.start], heading(one.level + levels, one.text), "\n"]
        position = one.end
    pieces.append(markdown[position:])
    fence = _open_fence(markdown[len(before) :])
    return "".join(pieces).rstrip("\n") + (f"\n{fence}" if fence else "")


def _open_fence(markdown: str) -> str:
    fence = ""
    for line in markdown.splitlines():
        mark = _FENCE.match(line)
        if not mark:
            continue
        if not fence:
            fence = mark[1]
        elif mark[1].startswith(fence) and not line[mark.end() :].strip():
            fence = ""
    return fence


def _without_closing(text: str) -> str:
    """`Title ##` is `Title`, but `C#` is itself."""
    text = text.strip()
    opened = text.rstrip("#")
    return opened.rstrip() if opened != opened.rstrip() or not opened else text
