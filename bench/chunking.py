"""Measures ways of cutting documents into passages, on questions whose answers are known to the character.

The set is in the layout of a labelled set, with `spans` for each query: `{doc, start, end}`, in characters of the
document. Every way is searched by the product itself, in a database of its own, and the table goes to standard output.
"""

import argparse
import asyncio
import gzip
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from uuid import UUID

import numpy as np

from app.cli.database import reachable
from app.db import chunks, embedders, scratch
from app.db.chunks import Hit
from app.db.engine import Sessions
from app.db.ingestions import NewChunk
from app.db.scratch import NewDocument
from app.ingest import language
from app.ingest.convert import ConvertedDocument
from app.ingest.formats import MARKDOWN
from app.ingest.split import split
from app.llm.protocols import Embedder
from app.rag.embedding_cache import CachingEmbedder
from app.rag.evaluation import JudgedDocument, read
from app.rag.variants import Mode, Variant, take
from app.resources import open_embedder
from app.settings import Settings

_PASSAGES = 5
_BUDGET_CHARACTERS = 4_000
_DEPTH = 50
_MODES: tuple[Mode, ...] = ("dense", "words", "both")

Spans = Sequence[tuple[str, int, int]]
"""Document, first character, and the one behind the last."""
Cut = Callable[[JudgedDocument, Embedder], list[NewChunk]]


@dataclass(frozen=True, slots=True)
class Question:
    text: str
    gold: Spans


@dataclass(frozen=True, slots=True)
class Coverage:
    """Each in [0, 1]: how much of the gold was found, how much of what was found is gold, and what both have in common
    as a share of both together."""

    recall: float
    precision: float
    overlap: float


def coverage(gold: Spans, found: Spans) -> Coverage:
    """By characters, each counted once."""
    wanted, had = _characters(gold), _characters(found)
    common = len(wanted & had)
    return Coverage(common / len(wanted), common / len(had) if had else 0.0, common / len(wanted | had))


def within(found: Spans, characters: int) -> Spans:
    """As much of the best as fits, the last one cut off."""
    kept: list[tuple[str, int, int]] = []
    for document, start, end in found:
        if characters <= 0:
            break
        kept.append((document, start, min(end, start + characters)))
        characters -= end - start
    return kept


def _characters(spans: Spans) -> set[tuple[str, int]]:
    return {(document, place) for document, start, end in spans for place in range(start, end)}


def by_structure(
    document: JudgedDocument, embedder: Embedder, *, max_tokens: int, overlap: int = 0, heading: bool = True
) -> list[NewChunk]:
    """As the product cuts, but for the size; each passage begins `overlap` characters before its own beginning, or less,
    so that it begins with a word."""
    converted = ConvertedDocument(document.text, MARKDOWN.media_type, MARKDOWN.kind, None, (), ())
    pieces = split(converted, count_tokens=embedder.count_tokens, max_tokens=max_tokens)
    cut = [
        NewChunk(piece.start, piece.end, piece.text, None, " > ".join(piece.headings) if heading else "")
        for piece in pieces
    ]
    return [_longer(chunk, document.text, overlap) for chunk in cut]


def _longer(chunk: NewChunk, text: str, overlap: int) -> NewChunk:
    wanted = max(0, chunk.start - overlap)
    blank = text.find(" ", wanted, chunk.start)
    start = wanted if wanted == 0 or overlap == 0 else chunk.start if blank == -1 else blank + 1
    return replace(chunk, start=start, text=text[start : chunk.end])


def windows(document: JudgedDocument, embedder: Embedder, *, characters: int) -> list[NewChunk]:  # noqa: ARG001  # a Cut
    starts = range(0, len(document.text), characters)
    pieces = ((start, document.text[start : start + characters]) for start in starts)
    return [NewChunk(start, start + len(text), text, None, "") for start, text in pieces if text.strip()]


WAYS: Mapping[str, Cut] = {
    "windows of 800 characters": partial(windows, characters=800),
    "96 tokens": partial(by_structure, max_tokens=96),
    "128 tokens": partial(by_structure, max_tokens=128),
    "192 tokens": partial(by_structure, max_tokens=192),
    "254 tokens": partial(by_structure, max_tokens=254),
    "254 tokens, without headings": partial(by_structure, max_tokens=254, heading=False),
    "200 tokens and 200 characters of overlap": partial(by_structure, max_tokens=200, overlap=200),
    "128 tokens and 100 characters of overlap": partial(by_structure, max_tokens=128, overlap=100),
}


async def _measured(
    sessions: Sessions,
    embedder: Embedder,
    documents: Sequence[JudgedDocument],
    questions: Sequence[Question],
    cut: Cut,
) -> str:
    """The cells of one row."""
    async with sessions.begin() as session:
        collection_id = await scratch.create_collection(session, "cut")
    count, length = 0, 0
    for document in documents:
        pieces = cut(document, embedder)
        passages = [chunks.passage(piece.heading, piece.text) for piece in pieces]
        embeddings = await embedder.embed_passages(passages)
        named = NewDocument(document.id, language.detect(document.text), pieces, embeddings)
        async with sessions.begin() as session:
            await scratch.store(session, collection_id, [named])
        count, length = count + len(pieces), length + sum(piece.end - piece.start for piece in pieces)
    async with sessions.begin() as session:
        await embedders.claim(session, embedder.name, embedder.dimensions)
        await scratch.analyse(session)
    found = [await _search(sessions, embedder, question, collection_id, count) for question in questions]
    cells = [f"{count:,}", f"{length / count:.0f}"]
    for mode in _MODES:
        best = [_spans(take(Variant(mode=mode), hits)) for hits in found]
        first = [
            coverage(question.gold, spans[:_PASSAGES])
            for question, spans in zip(questions, best, strict=True)
        ]
        cells.append(
            " / ".join(f"{np.mean([getattr(one, key) for one in first]):.3f}" for key in Coverage.__slots__)
        )
        if mode == "both":
            limited = [
                coverage(question.gold, within(spans, _BUDGET_CHARACTERS)).recall
                for question, spans in zip(questions, best, strict=True)
            ]
            cells.append(f"{np.mean(limited):.3f}")
    return " | ".join(cells)


async def _search(
    sessions: Sessions, embedder: Embedder, question: Question, collection_id: UUID, count: int
) -> list[Hit]:
    embedding = await embedder.embed_question(question.text)
    async with sessions.read() as session:
        return await chunks.search(
            session,
            embedding=embedding,
            question=question.text,
            collection_ids=[collection_id],
            chunk_count=count,
            depth=_DEPTH,
            limit=2 * _DEPTH,
            similarity_cutoff=-1,
        )


def _spans(hits: Sequence[Hit]) -> Spans:
    return [(hit.file_name, hit.start, hit.end) for hit in hits]


def _questions(directory: Path) -> Iterator[Question]:
    with gzip.open(directory / "queries.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            entry = json.loads(line)
            yield Question(
                entry["text"], [(span["doc"], span["start"], span["end"]) for span in entry["spans"]]
            )


async def _print_table(settings: Settings, directory: Path, ways: Sequence[str]) -> None:
    url = settings.database.database_url
    assert url is not None
    documents, questions = read(directory).documents, list(_questions(directory))
    heads = "passages | characters each | by meaning | by words | both | both, 4,000 characters"
    print(f"| cut into | {heads} |\n|{' --- |' * 7}", flush=True)
    async with open_embedder(settings) as opened:
        embedder = CachingEmbedder(opened, settings.database.freshet_data_dir / "embeddings")
        for way in ways:
            async with scratch.database(url.get_secret_value(), settings.database) as sessions:
                cells = await _measured(sessions, embedder, documents, questions, WAYS[way])
            print(f"| {way} | {cells} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument(
        "--way", action="append", choices=list(WAYS), help="instead of all; several may be given"
    )
    arguments = parser.parse_args()
    with reachable(Settings.load()) as settings:
        asyncio.run(_print_table(settings, arguments.directory, arguments.way or list(WAYS)))


if __name__ == "__main__":
    sys.exit(main())
