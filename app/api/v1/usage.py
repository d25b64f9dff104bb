"""What answers have taken and cost."""

import re
from dataclasses import astuple
from datetime import date
from typing import Annotated, Any, Self
from uuid import UUID

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, BeforeValidator, Field

from app.api.contract import problems
from app.api.deps import CurrentAccount, UsageReports
from app.api.tables import CSV, Accept, Format, table, wants_csv
from app.api.text import Text
from app.db.usage import By, Sum
from app.services.usage import UsageReport, Wanted

router = APIRouter(tags=["usage"])

_COLUMNS = tuple(Sum.__slots__)


class UsageSum(BaseModel):
    answers: int
    input_tokens: int
    output_tokens: int
    embedding_tokens: int
    cost: Annotated[float | None, Field(description="Of the `priced_answers`; null without any.")]
    priced_answers: int

    @classmethod
    def of(cls, row: Sum) -> Self:
        return cls.model_validate(row, from_attributes=True)


class UsageRow(UsageSum):
    key: Annotated[
        str | None,
        Field(description="The day, the id, or the model's name; null where it is not known any more."),
    ]
    name: Annotated[str | None, Field(description="The assistant's slug, or the user's email address.")]


class UsageOut(BaseModel):
    since: Annotated[date, Field(serialization_alias="from")]
    until: Annotated[date, Field(serialization_alias="to")]
    by: By
    items: list[UsageRow]
    total: UsageSum

    @classmethod
    def of(cls, report: UsageReport) -> Self:
        return cls(
            since=report.since,
            until=report.until,
            by=report.by,
            items=[UsageRow.of(row) for row in report.rows],
            total=UsageSum.of(report.total),
        )


_TOLD: dict[int | str, dict[str, Any]] = {
    200: {"description": "Sums, or a table.", "content": {CSV: {"schema": {"type": "string"}}}}
}


def _written_as_a_day(text: str | None) -> str | None:
    # By itself, a date would also be read from a number of seconds.
    if text is not None and not re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
        raise ValueError("must be a day such as 2026-11-26")
    return text


Day = Annotated[
    date | None,
    BeforeValidator(_written_as_a_day),
    Query(description="A day of UTC, such as 2026-11-26; it counts as well."),
]


@router.get("/usage", response_model=UsageOut, responses={**_TOLD, **problems(401, 403, 404, 422)})
async def usage(
    account: CurrentAccount,
    reports: UsageReports,
    since: Annotated[Day, Query(alias="from")] = None,
    until: Annotated[Day, Query(alias="to")] = None,
    by: By = "day",
    assistant_id: Annotated[
        Text | None, Query(min_length=1, max_length=100, description="An assistant's slug or id.")
    ] = None,
    user_id: Annotated[UUID | None, Query(description="Somebody else, for administrators.")] = None,
    format: Format = None,  # noqa: A002  # the parameter's name in the address
    accept: Accept = None,
) -> UsageOut | Response:
    """Administrators are told of all, users of what they have asked themselves."""
    report = await reports.told_to(account, Wanted(since, until, by, assistant_id, user_id))
    if wants_csv(format, accept):
        name = f"usage-by-{by}-{report.since}-{report.until}.csv"
        return table(_COLUMNS, map(astuple, report.rows), file_name=name)
    return UsageOut.of(report)
