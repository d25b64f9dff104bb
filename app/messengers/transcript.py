"""What an answer has come to so far, as a channel without events shows it."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

from app.messengers.sources import cited


class Transcript:
    def __init__(self) -> None:
        self.text = ""
        self.is_over = False
        self._failure = ""
        self._told: dict[str, list[dict[str, Any]]] = {"sources": [], "citations": []}

    def read(self, lines: Iterable[bytes]) -> None:
        for line in lines:
            self.hear(msgspec.json.decode(line))

    def hear(self, event: dict[str, Any]) -> None:
        match event["type"]:
            case "token":
                self.text += event["content"]
            case "sources":
                self._told["sources"] = event["data"]
            case "citation":
                self._told["citations"].append(event)
            case "error":
                self._failure = event["message"]
                self.is_over = True
            case "done":
                self.is_over = True
            case _:
                pass

    @property
    def whole(self) -> str:
        """With why it has failed, if it has, and what it cites."""
        return "\n\n".join(filter(None, (self.text.strip(), self._failure, "\n".join(cited(self._told)))))

    @property
    def told(self) -> dict[str, Any]:
        return {"text": self.text, "error": self._failure or None, **self._told}


def utf16_units(text: str) -> int:
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def parts(text: str, limit: int, size: Callable[[str], int] = utf16_units) -> Iterator[str]:
    """The text in parts whose `size` is at most `limit`, cut between lines or words where that is possible.

    As a text grows, all parts but the last stay as they are.
    """
    while size(text) > limit:
        fitting = _longest_fitting(text, limit, size)
        least = fitting // 2
        cut = next((at + 1 for mark in ("\n", " ") if (at := text.rfind(mark, least, fitting)) >= 0), fitting)
        yield text[:cut].rstrip() or text[:cut]
        text = text[cut:]
    if text := text.rstrip():
        yield text


def _longest_fitting(text: str, limit: int, size: Callable[[str], int]) -> int:
    """How many characters from the beginning, at least one."""
    low, high = 1, min(len(text), limit)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if size(text[:middle]) <= limit else (low, middle - 1)
    return low
