import json
from collections.abc import Iterable, Iterator
from typing import cast

from app.errors import DocumentRefused
from app.ingest.headings import heading, literal
from app.ingest.readers import Allowance, Draft, Reading, records
from app.ingest.readers.text import decode


class _Number(str):
    """As it is written, with all its digits."""

    __slots__ = ()


def read(content: bytes, allowance: Allowance) -> Reading:
    """A paragraph for each element of a list, headings for the names of objects. The file is one value, or one a line."""
    text, warnings = decode(content, allowance.characters)
    draft = Draft(allowance.characters)
    try:
        for block in _blocks(_parsed(text), 1):
            draft.add(block)
    except RecursionError as error:
        raise DocumentRefused("broken", "The file is nested too deeply to be read.") from error
    if not draft.text:
        raise DocumentRefused("no_text", "The file holds no value but empty ones.")
    return Reading(draft.text, warnings=warnings)


def _parsed(text: str) -> object:
    try:
        return _loads(text)
    except json.JSONDecodeError as error:
        lines = [line for line in text.splitlines() if line.strip()]
        try:
            return [_loads(line) for line in lines] if len(lines) > 1 else _loads(text)
        except json.JSONDecodeError:
            raise DocumentRefused(
                "broken", f"The file is no valid JSON: line {error.lineno}, column {error.colno}."
            ) from error


def _loads(text: str) -> object:
    return json.loads(text, parse_int=_Number, parse_float=_Number)


def _blocks(value: object, level: int) -> Iterator[str]:
    if isinstance(value, dict):
        named = cast("dict[str, object]", value)
        plain = {name: one for name, one in named.items() if _is_plain(one)}
        if own := records.record(_fields("", plain)):
            yield own
        for name, one in named.items():
            if name not in plain:
                blocks = _blocks(one, level + 1)
                if first := next(blocks, None):
                    yield heading(level, records.flat(name) or "-")
                    yield first
                    yield from blocks
    elif isinstance(value, list):
        for one in cast("list[object]", value):
            if block := records.record(_fields("", one)):
                yield block
    elif shown := _shown(value):
        yield literal(shown)


def _is_plain(value: object) -> bool:
    """Whether it is a value, or holds values and nothing that holds others."""
    held: Iterable[object] = ()
    if isinstance(value, dict):
        held = cast("dict[str, object]", value).values()
    elif isinstance(value, list):
        held = cast("list[object]", value)
    return not any(isinstance(one, dict | list) for one in held)


def _fields(name: str, value: object) -> Iterator[tuple[str, str]]:
    """Names are paths, as in `lines.2.price`; elements of lists are counted from 1."""
    if isinstance(value, dict):
        for inner, one in cast("dict[str, object]", value).items():
            yield from _fields(f"{name}.{inner}" if name else inner, one)
    elif isinstance(value, list):
        elements = cast("list[object]", value)
        if _is_plain(elements):
            yield name, ", ".join(map(_shown, elements))
        else:
            for number, one in enumerate(elements, 1):
                yield from _fields(f"{name}.{number}" if name else str(number), one)
    else:
        yield name, _shown(value)


def _shown(value: object) -> str:
    if value is None:
        return ""
    return records.flat(value if isinstance(value, str) else json.dumps(value))
