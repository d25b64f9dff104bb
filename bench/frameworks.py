"""Measures the hybrid searches of frameworks over pgvector on the passages and vectors that Freshet has of the same sets.

The frameworks are no dependencies: they are installed into an environment of their own, whose Python is named with
`--python`. They get a database each, and the table goes to standard output.
"""

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import asyncpg
import numpy as np
from sqlalchemy import make_url

from app.cli.database import reachable
from app.db import chunks
from app.ingest import language
from app.llm.protocols import Embedder
from app.rag import evaluation
from app.rag.embedding_cache import CachingEmbedder
from app.rag.evaluation import JudgedSet
from app.resources import open_embedder
from app.services.labelled_corpus import cut
from app.settings import Settings
from bench.evaluation import ndcg_10, recall_100, sets, short

_FRAMEWORKS = ("llama-index", "langchain")
_DROPPING_S = 30.0
_SEARCH = Path(__file__).with_name("framework_search.py")


async def _print_table(settings: Settings, python: Path, directories: Sequence[Path]) -> None:
    url = settings.database.database_url
    assert url is not None
    versions: dict[str, str] = {}
    print(f"| set | {' | '.join(_FRAMEWORKS)} |\n|{' --- |' * 3}", flush=True)
    async with open_embedder(settings) as opened:
        embedder = CachingEmbedder(opened, settings.database.freshet_data_dir / "embeddings")
        for directory in directories:
            judged = await anyio.to_thread.run_sync(evaluation.read, directory)
            with tempfile.NamedTemporaryFile(suffix=".npz") as file:
                await _write(Path(file.name), judged, embedder)
                cells = [
                    await _measured(
                        judged, [str(python), str(_SEARCH), name, file.name], url.get_secret_value(), versions
                    )
                    for name in _FRAMEWORKS
                ]
            print(f"| {judged.name} | {' | '.join(cells)} |", flush=True)
    print(f"\n{', '.join(f'{name} {number}' for name, number in versions.items())}")


async def _write(path: Path, judged: JudgedSet, embedder: Embedder) -> None:
    texts: list[str] = []
    documents: list[str] = []
    for document in judged.documents:
        pieces = cut(document, embedder)
        texts += [chunks.passage(piece.heading, piece.text) for piece in pieces]
        documents += [document.id] * len(pieces)
    vectors = [await embedder.embed_question(question.text) for question in judged.questions]
    given: Mapping[str, Any] = {
        "texts": np.array(texts),
        "documents": np.array(documents),
        "vectors": await embedder.embed_passages(texts),
        "ids": np.array([question.id for question in judged.questions]),
        "questions": np.array([question.text for question in judged.questions]),
        "question_vectors": np.array(vectors),
        "language": np.array(language.detect("\n".join(texts[:50]))),
    }
    np.savez(path, **given)


async def _measured(judged: JudgedSet, command: Sequence[str], url: str, versions: dict[str, str]) -> str:
    """nDCG@10 / Recall@100. The database is a new one with the extension, and nothing else."""
    name = f"freshet_scratch_{uuid4().hex}"
    server = await _connect(url)
    await server.execute(f"CREATE DATABASE {name}")
    own = make_url(url).set(drivername="postgresql", database=name).render_as_string(hide_password=False)
    try:
        connection = await _connect(own)
        await connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        await connection.close()
        ended = await anyio.run_process([*command, own], stderr=sys.stderr)
    finally:
        with anyio.move_on_after(_DROPPING_S, shield=True):
            await server.execute(f"DROP DATABASE {name} WITH (FORCE)")
            await server.close()
    answer = json.loads(ended.stdout)
    versions |= answer["versions"]
    found = {
        question: {document: float(-place) for place, document in enumerate(documents)}
        for question, documents in answer["found"].items()
    }
    return f"{short(ndcg_10(judged, found))} / {short(recall_100(judged, found))}"


async def _connect(url: str) -> "asyncpg.Connection[asyncpg.Record]":
    parsed = make_url(url)
    return await asyncpg.connect(
        host=parsed.host or str(parsed.query["host"]),
        port=parsed.port,
        user=parsed.username,
        password=parsed.password,
        database=parsed.database,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--python", type=Path, required=True, help="of the environment with the frameworks")
    parser.add_argument("--set", action="append", default=[], help="instead of all; several may be given")
    arguments = parser.parse_args()
    with reachable(Settings.load()) as settings:
        directories = sets(arguments.data, arguments.set)
        asyncio.run(_print_table(settings, arguments.python, directories))


if __name__ == "__main__":
    sys.exit(main())
