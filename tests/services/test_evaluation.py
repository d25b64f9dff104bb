import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import numpy as np
import pytest
from sqlalchemy import make_url, text

from app.db import collections, documents, ingestions
from app.db.documents import NewFile
from app.db.engine import Sessions
from app.db.ingestions import Claim, NewChunk, NewText
from app.errors import Forbidden, InvalidInput, NotFound
from app.llm.protocols import Embedder, Finish, Vector
from app.rag.measures import Figures
from app.rag.variants import Variant
from app.services import labelled_corpus
from app.services.evaluation import Answerer, EvaluationService
from app.settings import DatabaseSettings
from tests.scripted_model import ScriptedModel
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


@pytest.fixture
def service(database_url: str, tmp_path: Path) -> EvaluationService:
    """Another embedder than that of the settings has dimensions of its own."""

    @asynccontextmanager
    async def opened(model: str | None) -> AsyncGenerator[Embedder]:
        yield WordsEmbedder() if model is None else WordsEmbedder(model, dimensions=4)

    return EvaluationService(database_url, DatabaseSettings(), opened, tmp_path / "cache")


@pytest.fixture
async def leases(sessions: Sessions) -> None:
    """A collection of two documents of two passages each."""
    for name, texts in {
        "lease.pdf": ["Notice is given in writing.", "The rent is due on the third day."],
        "rent.md": ["The rent is paid in cash.", "The heating runs from October."],
    }.items():
        async with sessions.begin() as session:
            await collections.insert_new(session, "leases")
            [collection_id] = await collections.hold(session, ["leases"])
            file = NewFile(name, None, name.encode(), name.encode())
            document, _ = await documents.add(session, collection_id, file)
            claim = await ingestions.claim(
                session, document.id, await ingestions.enqueue(session, document.id)
            )
            assert isinstance(claim, Claim)
            await ingestions.finish(
                session,
                claim,
                NewText("\n".join(texts), "text/markdown", "md", None, "english", (), ()),
                [NewChunk(0, len(text), text, None, "") for text in texts],
                await WordsEmbedder().embed_passages(texts),
            )


def ignore(stage: str, done: int, total: int) -> None:
    pass


async def scratch_databases(sessions: Sessions) -> list[str]:
    async with sessions.begin() as session:
        names = text("SELECT datname FROM pg_database WHERE datname LIKE 'freshet_scratch%'")
        return list((await session.execute(names)).scalars())


async def test_a_set_is_measured_in_several_ways_and_leaves_nothing_behind(
    sessions: Sessions, service: EvaluationService, labelled: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(labelled_corpus, "_DOCUMENTS_A_BATCH", 3)
    told: list[tuple[str, int, int]] = []
    variants = [Variant(mode="dense"), Variant(mode="words"), Variant(top_k=1)]

    report = await service.evaluate_set(
        labelled, variants, lambda stage, done, total: told.append((stage, done, total))
    )

    assert report.name == "leases"
    assert [run.variant for run in report.runs] == variants
    for run in report.runs:
        assert run.figures == Figures(1, 1, 1, 1)
        assert (run.documents, len(run.results), run.without_result) == (4, 2, 0)
        assert run.chunks >= 3
        assert run.passage_tokens > 200
        assert run.question_tokens == 11
    assert {len(result.passages) for result in report.runs[2].results} == {1}
    assert told == [
        ("embedding", 0, 4),
        ("embedding", 3, 4),
        ("embedding", 4, 4),
        ("searching", 0, 2),
        ("searching", 1, 2),
        ("searching", 2, 2),
    ]
    assert await scratch_databases(sessions) == []


async def test_another_embedder_has_a_database_of_its_own(
    sessions: Sessions, service: EvaluationService, labelled: Path
):
    variants = [Variant(mode="dense", embedding_model="coarse"), Variant(mode="dense")]

    coarse, fine = (await service.evaluate_set(labelled, variants, ignore)).runs

    assert (coarse.embedder, fine.embedder) == ("coarse", "words")
    assert coarse.figures.mrr_10 < fine.figures.mrr_10 == 1
    assert await scratch_databases(sessions) == []


class ByLength:
    """The longest passage first."""

    name = "by-length"
    weight = 1.0

    async def scores(self, question: str, passages: Sequence[str]) -> Vector:  # noqa: ARG002  # the protocol's
        return np.array([len(passage) for passage in passages], np.float32)

    async def aclose(self) -> None:
        pass


async def test_passages_are_reranked_and_folded_where_that_is_measured(
    database_url: str, sessions: Sessions, tmp_path: Path, leases: None
):
    @asynccontextmanager
    async def opened(model: str | None) -> AsyncGenerator[Embedder]:
        yield WordsEmbedder()

    table = tmp_path / "questions.csv"
    table.write_text("question,answer\nWhen is the rent due?,third day\n")
    service = EvaluationService(
        database_url,
        DatabaseSettings(),
        opened,
        tmp_path / "cache",
        reranker_of=lambda _: ByLength(),
        reranked=2,
    )
    variants = [Variant(), Variant(rerank=True), Variant(fold=True, top_k=2)]

    report = await service.evaluate_table(table, sessions, "leases", variants, ignore)

    plain, reranked, folded = (run.results[0] for run in report.runs)
    assert str(variants[1]).endswith("rerank=true")
    first_two = [hit.text for hit in plain.passages[:2]]
    assert [hit.text for hit in reranked.passages[:2]] == sorted(first_two, key=len, reverse=True)
    assert reranked.passages[2:] == plain.passages[2:], "what is not reranked stays behind"
    assert len(folded.passages) == 2


async def test_without_a_reranker_none_is_measured(service: EvaluationService, labelled: Path):
    with pytest.raises(InvalidInput, match="set RERANK_URL"):
        await service.evaluate_set(labelled, [Variant(rerank=True)], ignore)


async def test_a_cut_off_that_nothing_reaches_leaves_questions_without_result(
    service: EvaluationService, labelled: Path
):
    report = await service.evaluate_set(labelled, [Variant(similarity_cutoff=0.99)], ignore)

    [run] = report.runs
    assert run.without_result == 2
    assert run.figures == Figures(0, 0, 0, 0)


async def test_a_set_that_cannot_be_read_is_refused_before_anything_is_made(
    sessions: Sessions, service: EvaluationService, tmp_path: Path
):
    with pytest.raises(InvalidInput, match="no labelled set"):
        await service.evaluate_set(tmp_path, [Variant()], ignore)

    assert await scratch_databases(sessions) == []


async def test_a_user_who_may_not_create_databases_is_told_so(
    database_url: str, service: EvaluationService, labelled: Path
):
    parsed = make_url(database_url)
    connection = await asyncpg.connect(
        host=str(parsed.query["host"]), user=parsed.username, database=parsed.database
    )
    await connection.execute("CREATE ROLE reader LOGIN")
    try:
        service._url = parsed.set(username="reader").render_as_string()  # pyright: ignore[reportPrivateUsage]  # of another user
        with pytest.raises(Forbidden, match="may not create databases"):
            await service.evaluate_set(labelled, [Variant()], ignore)
    finally:
        await connection.execute("DROP ROLE reader")
        await connection.close()


async def test_the_questions_of_a_table_are_asked_of_a_collection(
    sessions: Sessions, service: EvaluationService, leases: None, tmp_path: Path
):
    table = tmp_path / "questions.csv"
    table.write_text(
        "question,document,answer\n"
        "When is the rent due?,lease.pdf,\n"
        "How is the rent paid?,rent.md;lease.pdf,\n"
        "When does the heating run?,,from october\n"
        "When is the rent due?,rent.md,the third\n"
    )

    report = await service.evaluate_table(table, sessions, "leases", [Variant(mode="words")], ignore)

    [run] = report.runs
    assert (report.name, run.documents, run.chunks, run.passage_tokens) == ("questions.csv", 2, 4, 0)
    assert [result.figures.mrr_10 for result in run.results] == [1, 1, 1, 0]
    assert run.results[1].figures.recall == 1
    assert run.results[2].passages[0].text == "The heating runs from October."


async def test_the_model_answers_from_what_was_found_and_is_compared_with_what_was_expected(
    sessions: Sessions, service: EvaluationService, leases: None, tmp_path: Path
):
    model = ScriptedModel()
    model.script = lambda prompt: [["On the ", "third [1]."], Finish("stop", None)]
    service._answerer = Answerer(model, context_tokens=12)  # pyright: ignore[reportPrivateUsage]  # as it is made with one
    table = tmp_path / "questions.csv"
    table.write_text(
        "question,answer,document\nWhen is the rent due?,“Third [1]”,\nrent?,the second,\nrent?,,rent.md\n"
    )
    told: list[str] = []

    report = await service.evaluate_table(
        table, sessions, "leases", [Variant(mode="words")], lambda stage, done, total: told.append(stage)
    )

    [run] = report.runs
    assert [answer.holds_expected for answer in run.answers] == [True, False, None]
    assert {answer.text for answer in run.answers} == {"On the third [1]."}
    assert all(answer.usage.output_tokens == 5 and answer.usage.input_tokens > 100 for answer in run.answers)
    assert [passage.text for passage in model.prompts[0].passages] == ["The rent is due on the third day."]
    assert told.count("answering") == 4


@pytest.mark.parametrize(
    ("cells", "collection", "variant", "error", "complaint"),
    [
        ("a,rent.pdf", "leases", Variant(), InvalidInput, r"leases does not hold .* row 1: rent\.pdf"),
        ("a,rent.md", "others", Variant(), NotFound, "no collection others"),
        ("a,rent.md", "leases", Variant(embedding_model="m"), InvalidInput, "has been embedded once"),
    ],
)
async def test_a_table_that_does_not_fit_its_collection_is_refused(
    sessions: Sessions,
    service: EvaluationService,
    leases: None,
    tmp_path: Path,
    cells: str,
    collection: str,
    variant: Variant,
    error: type[Exception],
    complaint: str,
):
    table = tmp_path / "questions.csv"
    table.write_text(f"question,document\n{cells}\n")

    with pytest.raises(error, match=complaint):
        await service.evaluate_table(table, sessions, collection, [variant], ignore)
