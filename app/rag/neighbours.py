"""A passage with what stands around it: the chunks beside it, of its document and below the same heading."""

from collections.abc import Sequence
from dataclasses import replace
from uuid import UUID

from app.db import passages
from app.db.engine import AsyncSession
from app.db.passages import Place, Slice
from app.rag.retrieval import Hit


async def widen(session: AsyncSession, hits: Sequence[Hit], *, budget: int) -> list[Hit]:
    """Each hit with as many neighbours as fit into `budget` characters; one that a better hit has taken in is left out.

    The text is that of the document from the first chunk's start to the last one's end, and the page label names both pages
    where they differ.
    """
    by_document: dict[UUID, dict[int, Place]] = {}
    for place in await passages.around(session, [hit.chunk_id for hit in hits]):
        by_document.setdefault(place.document_id, {})[place.ordinal] = place
    taken: set[int] = set()
    spans: list[tuple[Hit, list[Place]]] = []
    for hit in hits:
        if hit.chunk_id in taken:
            continue
        around = by_document.get(hit.document_id, {})
        span = _span(hit, around, taken, budget)
        taken |= {place.chunk_id for place in span}
        spans.append((hit, span))
    wanted = [(hit.document_id, span[0].start, span[-1].end) for hit, span in spans if len(span) > 1]
    texts = await passages.slices(session, wanted) if wanted else {}
    return [_joined(hit, span, texts) for hit, span in spans]


def _span(hit: Hit, around: dict[int, Place], taken: set[int], budget: int) -> list[Place]:
    """Grows in turns behind and before the hit."""
    own = next((place for place in around.values() if place.chunk_id == hit.chunk_id), None)
    if own is None:
        return []
    span = [own]
    open_ends = [1, -1]
    while open_ends:
        step = open_ends.pop(0)
        place = around.get(span[-1].ordinal + 1 if step > 0 else span[0].ordinal - 1)
        if place is None or place.chunk_id in taken or place.heading != own.heading:
            continue
        wider = [*span, place] if step > 0 else [place, *span]
        if wider[-1].end - wider[0].start <= budget:
            span = wider
            open_ends.append(step)
    return span


def _joined(hit: Hit, span: Sequence[Place], texts: dict[Slice, str]) -> Hit:
    if len(span) < 2:
        return hit
    first, last = span[0], span[-1]
    text = texts.get((hit.document_id, first.start, last.end))
    if text is None:
        return hit
    labels = list(dict.fromkeys(label for label in (first.page_label, last.page_label) if label is not None))
    return replace(hit, text=text, start=first.start, end=last.end, page_label="-".join(labels) or None)
