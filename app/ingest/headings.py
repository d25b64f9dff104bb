"""The headings of Markdown: lines that start with `#`, and lines underlined with `=` or `-`, outside of code blocks."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_ATX = re.compile(r" {0,3}(#{1,6})[ \t]")
_UNDERLINE = re.compile(r" {0,3}(=+|-+)\s*$")
_NO_PARAGRAPH = re.compile(r"\s*$|\s*(?:[>|#*+-]|\d+[.)])[ \t]| {4}|.*\|.*\|")
_FRONT_MATTER = re.compile(r"---\n(?:(?!---|\.\.\.).*\n){0,500}(?:---|\.\.\.)[ \t]*(?:\n|\Z)")


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


def _without_closing(text: str) -> str:
    """`Title ##` is `Title`, but `C#` is itself."""
    text = text.strip()
    opened = text.rstrip("#")
    return opened.rstrip() if opened != opened.rstrip() or not opened else text
