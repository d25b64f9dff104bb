"""Lists as a table for spreadsheets."""

import csv
import io
from collections.abc import Iterable, Sequence
from datetime import date
from typing import Annotated, Any, Literal

from fastapi import Header, Query, Response

CSV = "text/csv"

Format = Annotated[
    Literal["json", "csv"] | None, Query(description="Left out, `Accept` decides: `text/csv`, or JSON else.")
]
Accept = Annotated[str | None, Header(include_in_schema=False)]

# What a spreadsheet takes for a formula, which it would run for whoever opens the file.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def wants_csv(form: str | None, accept: str | None) -> bool:
    return form == "csv" if form is not None else CSV in (accept or "").lower()


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, file_name: str) -> Response:
    """CSV with a head. A text that a spreadsheet would take for a formula has an apostrophe before it."""
    written = io.StringIO()
    writer = csv.writer(written)
    writer.writerow(columns)
    writer.writerows([_cell(value) for value in row] for row in rows)
    disposition = {"content-disposition": f'attachment; filename="{file_name}"'}
    return Response(written.getvalue(), headers=disposition, media_type=f"{CSV}; charset=utf-8")


def _cell(value: Any) -> Any:
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return value
