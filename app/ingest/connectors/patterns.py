"""Patterns that choose among paths, as `*.pdf`, `reports/**` or `**/drafts/*`."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import PurePosixPath

from app.ingest.formats import FORMATS

_EXTENSIONS = {f".{extension}" for one in FORMATS for extension in one.extensions}


@dataclass(frozen=True, slots=True)
class Choice:
    """All but what is excluded, or only what is included and not excluded.

    `*` and `?` do not cross a slash, `**` does. A pattern without a slash is held against the last part of the path.
    """

    include: Sequence[str] = field(default_factory=tuple[str, ...])
    exclude: Sequence[str] = field(default_factory=tuple[str, ...])

    def takes(self, path: str) -> bool:
        included = not self.include or any(_matches(pattern, path) for pattern in self.include)
        return included and not any(_matches(pattern, path) for pattern in self.exclude)


def is_readable(path: str) -> bool:
    """Whether its name is that of a format that can be read."""
    return PurePosixPath(path).suffix.lower() in _EXTENSIONS


def _matches(pattern: str, path: str) -> bool:
    held_against = path.removeprefix("/") if "/" in pattern else path.rsplit("/", 1)[-1]
    return _compiled(pattern.removeprefix("/")).fullmatch(held_against) is not None


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    expression = ""
    for part in re.findall(r"\*\*/|\*+|\?|[^*?]+", pattern):
        if part == "**/":
            expression += r"(?:[^/]+/)*"
        elif part.startswith("**"):
            expression += ".*"
        elif part == "*":
            expression += "[^/]*"
        elif part == "?":
            expression += "[^/]"
        else:
            expression += re.escape(part)
    return re.compile(expression, re.DOTALL)
