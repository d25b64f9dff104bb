import json
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy import make_url, text

from app.db.engine import Sessions
from app.errors import Forbidden, InvalidInput
from app.services import evaluation
from app.services.evaluation import EvaluationService
from app.settings import DatabaseSettings
from tests.words_embedder import WordsEmbedder

DOCUMENTS = [
    {"_id": "notice", "title": "Ending  the\nlease", "text": "Notice is given in writing. " * 40},
    {"_id": "rent", "title": "", "text": "The rent is due on the third day of each month."},
    {"_id": "heating", "title": "Heating", "text": "It runs from October to April."},
    {"_id": "empty", "title": "", "text": ""},
]
QUESTIONS = [
    {"_id": "q1", "text": "When is the rent due?"},
    {"_id": "q2", "text": "From when does the heating run?"},
]


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    directory = tmp_path / "leases"
    directory.mkdir()
    for name, entries in (("corpus", DOCUMENTS), ("queries", QUESTIONS)):
        (directory / f"{name}.jsonl").write_text("\n".join(map(json.dumps, entries)))
    (directory / "qrels.tsv").write_text("q1\trent\t1\nq2\theating\t1\n")
    return directory


def ignore(stage: str, done: int, total: int) -> None:
    pass


async def scratch_databases(sessions: Sessions) -> list[str]:
    async with sessions.begin() as session:
        names = text("SELECT datname FROM pg_database WHERE datname LIKE 'freshet_scratch%'")
        return list((await session.execute(names)).scalars())


async def test_a_set_is_measured_by_halves_and_whole_and_leaves_nothing_behind(
    sessions: Sessions,
    database_url: str,
    labelled: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(evaluation, "_DOCUMENTS_A_BATCH", 3)
    service = EvaluationService(database_url, DatabaseSettings(), WordsEmbedder(), tmp_path / "cache")
    told: list[tuple[str, int, int]] = []

    report = await service.evaluate(labelled, lambda stage, done, total: told.append((stage, done, total)))

    assert (report.name, report.documents, report.questions) == ("leases", 4, 2)
    assert report.chunks >= 3
    for figures in (report.dense, report.words, report.both):
        assert (figures.ndcg_10, figures.recall_100, figures.mrr) == (1, 1, 1)
    assert told == [
        ("embedding", 0, 4),
        ("embedding", 3, 4),
        ("embedding", 4, 4),
        ("searching", 0, 2),
        ("searching", 1, 2),
        ("searching", 2, 2),
    ]
    assert await scratch_databases(sessions) == []


async def test_a_set_that_cannot_be_read_is_refused_before_anything_is_made(
    sessions: Sessions, database_url: str, tmp_path: Path
):
    service = EvaluationService(database_url, DatabaseSettings(), WordsEmbedder(), tmp_path / "cache")

    with pytest.raises(InvalidInput, match="no labelled set"):
        await service.evaluate(tmp_path, ignore)

    assert await scratch_databases(sessions) == []


async def test_a_user_who_may_not_create_databases_is_told_so(
    database_url: str, labelled: Path, tmp_path: Path
):
    parsed = make_url(database_url)
    connection = await asyncpg.connect(
        host=str(parsed.query["host"]), user=parsed.username, database=parsed.database
    )
    await connection.execute("CREATE ROLE reader LOGIN")
    try:
        url = parsed.set(username="reader").render_as_string()
        service = EvaluationService(url, DatabaseSettings(), WordsEmbedder(), tmp_path / "cache")
        with pytest.raises(Forbidden, match="may not create databases"):
            await service.evaluate(labelled, ignore)
    finally:
        await connection.execute("DROP ROLE reader")
        await connection.close()
