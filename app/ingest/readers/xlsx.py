import datetime
import io
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from typing import Any, Protocol, cast

import openpyxl

from app.errors import DocumentRefused
from app.ingest.formats import XLSX
from app.ingest.headings import heading
from app.ingest.readers import Allowance, Draft, Reading, package, records

_MAIN_TYPE = re.compile(
    rb"spreadsheetml\.(sheet|template)\.main\+xml|ms-excel\.(sheet|template)\.macroEnabled"
)


class _Cell(Protocol):
    """What is used of a cell of openpyxl, which has no types. Cells that a sheet leaves out have no format."""

    @property
    def value(self) -> object: ...
    @property
    def number_format(self) -> str: ...


class _Sheet(Protocol):
    title: str

    def reset_dimensions(self) -> None: ...
    def iter_rows(self) -> Iterator[tuple[_Cell, ...]]: ...


class _Workbook(Protocol):
    worksheets: list[_Sheet]

    def close(self) -> None: ...


def read(content: bytes, allowance: Allowance) -> Reading:
    """A page for each sheet, under a heading of its name."""
    with package.opened(content, XLSX.name) as parts, warnings.catch_warnings():
        # It warns of what it leaves out: styles, pictures, and the like.
        warnings.simplefilter("ignore")
        title = parts.check_office(_MAIN_TYPE)
        load = cast("Callable[..., _Workbook]", openpyxl.load_workbook)  # pyright: ignore[reportUnknownMemberType]  # no types
        workbook = load(io.BytesIO(content), read_only=True, data_only=True, keep_links=False)
        return _read(workbook.worksheets, title, allowance)


def _read(sheets: Iterable[_Sheet], title: str | None, allowance: Allowance) -> Reading:
    draft = Draft(allowance.characters)
    pages: list[tuple[str, int, int]] = []
    damaged: list[str] = []
    for sheet in sheets:
        name = records.flat(sheet.title)
        # What a sheet says of its own size may be wrong, and rows would be filled up to it.
        sheet.reset_dimensions()
        start = end = len(draft)
        try:
            for paragraph in records.paragraphs(_rows(sheet)):
                if start == end:
                    draft.add(heading(1, name))
                _, end = draft.add(paragraph)
        except (DocumentRefused, MemoryError):
            raise
        except Exception:  # noqa: BLE001  # a library may raise anything on a damaged sheet, and the others may be whole
            damaged.append(name)
        pages.append((name, start, end))
    if not draft.text and damaged:
        raise DocumentRefused("broken", "The workbook is damaged: none of its sheets can be read.")
    if not draft.text:
        raise DocumentRefused("no_text", "The workbook holds no text and no numbers.")
    told = tuple(f"Sheet {name} is damaged, and some or all of it is left out." for name in damaged)
    return Reading(draft.text, title=title, pages=tuple(pages), warnings=told)


def _rows(sheet: _Sheet) -> Iterator[list[str]]:
    for row in sheet.iter_rows():
        yield [_shown(cell) for cell in row]


def _shown(cell: _Cell) -> str:
    """The value as it is stored, with all its digits; dates as in ISO 8601, and a share in percent if it is shown so."""
    value = cell.value
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, int | float):
        return _number(value, percent="%" in cell.number_format)
    if isinstance(value, datetime.datetime):
        return value.isoformat(" ").removesuffix(" 00:00:00")
    return str(cast("Any", value))


def _number(value: float, *, percent: bool) -> str:
    if not percent:
        return repr(value)
    return f"{(Decimal(repr(value)) * 100).normalize():f}%"
