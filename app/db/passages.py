"""What stands around a chunk in its document."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import ARRAY, BigInteger, Integer, Uuid, bindparam, text
from sqlalchemy.ext.asyncio import AsyncSession

# On each side: more would be a page, and no passage.
_FARTHEST = 8

_AROUND = text(
    """
    SELECT DISTINCT n.id, n.document_id, n.ordinal, n.start_offset, n.end_offset, n.heading, n.page_label
    FROM chunks c JOIN chunks n ON n.document_id = c.document_id AND n.heading = c.heading
        AND n.ordinal BETWEEN c.ordinal - :farthest AND c.ordinal + :farthest
    WHERE c.id = ANY (:chunk_ids)
    """
).bindparams(bindparam("chunk_ids", type_=ARRAY(BigInteger)), bindparam("farthest", _FARTHEST))

_SLICES = text(
    """
    SELECT d.id, s.first, s.last, substring(d.text FROM s.first + 1 FOR s.last - s.first)
    FROM unnest(CAST(:documents AS uuid[]), CAST(:starts AS int[]), CAST(:ends AS int[])) AS s (id, first, last)
        JOIN documents d ON d.id = s.id
    """
).bindparams(
    bindparam("documents", type_=ARRAY(Uuid(as_uuid=True))),
    bindparam("starts", type_=ARRAY(Integer)),
    bindparam("ends", type_=ARRAY(Integer)),
)

Slice = tuple[UUID, int, int]
"""Of a document's text, the characters from the first number to the second."""


@dataclass(frozen=True, slots=True)
class Place:
    chunk_id: int
    document_id: UUID
    ordinal: int
    start: int
    end: int
    heading: str
    page_label: str | None


async def around(session: AsyncSession, chunk_ids: Sequence[int]) -> list[Place]:
    """These chunks and those beside them below the same heading, in no order."""
    return [Place(*row) for row in await session.execute(_AROUND, {"chunk_ids": list(chunk_ids)})]


async def slices(session: AsyncSession, wanted: Sequence[Slice]) -> dict[Slice, str]:
    """Without those of documents that are gone."""
    documents, starts, ends = zip(*wanted, strict=True)
    rows = await session.execute(
        _SLICES, {"documents": list(documents), "starts": list(starts), "ends": list(ends)}
    )
    return {(row[0], row[1], row[2]): row[3] for row in rows if row[3] is not None}
