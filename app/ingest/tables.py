"""The tables of Markdown, outside of code blocks: what their columns are called, and how far their rows reach."""

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_DELIMITER = re.compile(r" {0,3}\|?(?:[ \t]*+:?-++:?[ \t]*+\|)++(?:[ \t]*+:?-++:?)?[ \t]*$")
_BAR = re.compile(r"(?<!\\)\|")
# So much of the names goes before each part of a table: of very many columns the first.
_LONGEST_NAMES = 200


@dataclass(frozen=True, slots=True)
class Table:
    """Its rows begin at `body`, after the names, and end at `end`."""

    body: int
    end: int
    names: str


def tables(markdown: str) -> list[Table]:
    """In order."""
    found: list[Table] = []
    position, body, fence = 0, 0, ""
    above = names = ""
    for line in markdown.splitlines(keepends=True):
        start, position = position, position + len(line)
        mark = _FENCE.match(line)
        if fence or mark:
            closes = mark is not None and mark[1].startswith(fence) and not line[mark.end() :].strip()
            fence = "" if fence and closes else fence or (mark[1] if mark else "")
        is_row = not fence and mark is None and "|" in line
        if names and not is_row:
            found.append(Table(body, start, names))
            names = ""
        elif not names and is_row and above and _DELIMITER.match(line.rstrip()):
            names, body = _names(above), position
        above = line if is_row else ""
    if names:
        found.append(Table(body, position, names))
    return found


def columns_at(tables_of_text: Sequence[Table], position: int) -> str:
    """What the columns are called of the table whose rows are at this position, or nothing."""
    place = bisect_right(tables_of_text, position, key=lambda table: table.body) - 1
    if place < 0 or position >= tables_of_text[place].end:
        return ""
    return tables_of_text[place].names


def _names(row: str) -> str:
    cells = [cell.strip().replace("\\|", "|") for cell in _BAR.split(row.strip().strip("|"))]
    names = " | ".join(cell for cell in cells if cell)
    return names if len(names) <= _LONGEST_NAMES else f"{names[:_LONGEST_NAMES].rstrip()}…"
