"""Documents inside of others: the files of an archive, what is attached to a letter.

Each is read as a file of its own, and its text goes under a heading of its name. Its pages keep their labels, with the
name before them (`report.xlsx > Sheet1`), so that a citation tells the place. What cannot be read is left out, and why is
a warning; only what would unpack to too much refuses the whole.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

from app.errors import DocumentRefused
from app.ingest import formats
from app.ingest.formats import PDF, PLAIN
from app.ingest.headings import heading, literal, lowered
from app.ingest.readers import Allowance, Draft, Reading, TooMuchInside, one_line, read

_DEEPEST = 3
_BETWEEN = " > "
_MOST_WARNINGS = 100
_NAME_PART = re.compile(r"[^/\\]+")
_LONGEST_NAME = 200


class Binder:
    """Puts a text together of a document's own and of its members. `level` is that of the members' headings."""

    def __init__(self, allowance: Allowance, *, level: int) -> None:
        self._allowance = allowance
        self._level = level
        self._draft = Draft(allowance.characters)
        self._pages: list[tuple[str, int, int]] = []
        self._warnings: list[str] = []
        self._refusals: list[DocumentRefused] = []

    def add_own(self, markdown: str) -> None:
        """Text that is not a member's."""
        self._pages.append(("", *self._draft.add(markdown)))

    def add(self, name: str, content: bytes, declared_type: str | None = None) -> None:
        """Raises TooMuchInside."""
        try:
            recognised = formats.recognise(content, name, declared_type)
        except DocumentRefused as refused:
            self.leave_out(name, refused)
        else:
            self.add_from(
                name,
                lambda inside: read(recognised.reader, content, inside),
                markdown=recognised not in (PDF, PLAIN),
                holds_others=recognised.holds_others,
            )

    def add_from(
        self,
        name: str,
        reading: Callable[[Allowance], Reading],
        *,
        markdown: bool = True,
        holds_others: bool = True,
    ) -> None:
        """A member that is no file by itself. Raises TooMuchInside."""
        inside = replace(
            self._allowance,
            characters=max(0, self._allowance.characters - len(self._draft)),
            depth=self._allowance.depth + 1,
        )
        try:
            if holds_others and inside.depth >= _DEEPEST:
                raise DocumentRefused("too_large", f"It lies more than {_DEEPEST} deep inside of others.")
            self._bind(shown_name(name), reading(inside), markdown=markdown)
        except TooMuchInside:
            raise
        except DocumentRefused as refused:
            self.leave_out(name, refused)

    def leave_out(self, name: str, refused: DocumentRefused) -> None:
        self._refusals.append(refused)
        self._warn(
            f"{shown_name(name)} is left out. {refused.message.removesuffix(formats.SUPPORTED).strip()}"
        )

    def reading(self, title: str | None, nothing: str) -> Reading:
        """Of all that has been added. Raises DocumentRefused if that is nothing: for the reason of the member if there
        is one reason, and with `nothing` and the warnings as its message."""
        if not self._draft.text:
            reasons = {refused.reason for refused in self._refusals}
            reason = reasons.pop() if len(reasons) == 1 else "no_text"
            raise DocumentRefused(reason, " ".join([nothing, *self._warnings[:3]]))
        alone = all(label == "" for label, _, _ in self._pages)
        return Reading(
            self._draft.text,
            title=title,
            pages=() if alone else tuple(self._pages),
            warnings=tuple(self._warnings),
        )

    def _bind(self, name: str, reading: Reading, *, markdown: bool) -> None:
        labels = [label for label, _, _ in reading.pages] or [""]
        starts = [start for _, start, _ in reading.pages] or [0]
        start = end = self._draft.add(heading(self._level, name))[0]
        # What stands before the first page belongs to it.
        for label, (first, last) in zip(labels, pairwise([0, *starts[1:], len(reading.text)]), strict=True):
            text = reading.text[first:last].strip("\n")
            if text:
                _, end = self._draft.add(lowered(text, self._level) if markdown else literal(text))
            self._pages.append((_BETWEEN.join(filter(None, (name, label))), start, max(start, end)))
            start = len(self._draft)
        for warning in reading.warnings:
            self._warn(f"{name}: {warning}")

    def _warn(self, warning: str) -> None:
        if len(self._warnings) < _MOST_WARNINGS:
            self._warnings.append(warning)


def shown_name(name: str) -> str:
    """As a path that leads nowhere: without a root, and without the ways up."""
    parts = [part for part in _NAME_PART.findall(one_line(name) or "") if part.strip(". ")]
    return "/".join(parts)[-_LONGEST_NAME:] or "unnamed"
