"""A turn whose passages are reranked by the token vectors of the built-in embedder."""

from dataclasses import replace
from typing import Any

import pytest

from app.llm.minilm import MiniLM
from app.llm.protocols import Embedder
from app.settings import RetrievalSettings, Settings
from tests.api.turns import answered
from tests.conftest import Serve

QUESTION = "What does the library charge for a lost card?"
NUISANCE = "A lost card is a nuisance, says the library. What a library is to a town, a card is to a reader."
SUBJECT = "The library card is the card of the library. With a card, readers use the library every day."
ANSWER = (
    "Readers may borrow ten books for four weeks. Films are lent for one week. If you lose your card, the library asks for"
    " five euros. Newspapers lie on the ground floor, and coffee is sold beside the entrance."
)
HOURS = "Opening hours are from nine to six."


class ClaimingMiniLM(MiniLM):
    """Under the name by which the tests' databases are claimed."""

    name = "words"


@pytest.fixture
def embedder_of_server() -> Embedder:
    return ClaimingMiniLM()


async def ask(serve: Serve, settings: Settings, **retrieval: Any) -> list[dict[str, Any]]:
    with_maxsim = RetrievalSettings(rerank_kind="maxsim", **retrieval)
    async with serve(replace(settings, retrieval=with_maxsim)) as server:
        for number, text in enumerate((NUISANCE, SUBJECT, ANSWER, HOURS)):
            await server.resources.knowledge.ingest_now("library", f"{number}.txt", text.encode())
        await server.resources.assistants.create(
            name="Library", slug="library", collections=["library"], similarity_cutoff=-1, top_k=6
        )
        async with server.client() as client:
            return await answered(client, "library", message=QUESTION)


def texts_of(lines: list[dict[str, Any]]) -> list[str]:
    (sources,) = [line["data"] for line in lines if line["type"] == "sources"]
    return [source["text"] for source in sources]


async def test_an_answer_among_other_things_comes_before_what_shares_the_subject(
    serve: Serve, settings: Settings
):
    lines = await ask(serve, settings, rerank_candidates=3)

    assert texts_of(lines) == [NUISANCE, ANSWER, SUBJECT, HOURS]
    opened, closed = (line for line in lines if line.get("step_type") == "reranking")
    retrieval = next(line for line in lines if line.get("step_type") == "retrieval")
    assert opened["parent_id"] == retrieval["step_id"]
    assert (closed["status"], closed["payload"]) == ("completed", {"model_name": "words/maxsim"})


async def test_what_the_search_has_far_ahead_stays_ahead_of_what_the_tokens_have_a_little_ahead(
    serve: Serve, settings: Settings
):
    # Beside the fourth, for which both are low, the second and the third are near each other.
    lines = await ask(serve, settings, rerank_candidates=4)

    assert texts_of(lines) == [NUISANCE, SUBJECT, ANSWER, HOURS]


async def test_where_the_processor_is_too_slow_the_answer_goes_on_in_the_order_of_the_search(
    serve: Serve, settings: Settings
):
    lines = await ask(serve, settings, rerank_timeout_s=0.001)

    assert texts_of(lines) == [NUISANCE, SUBJECT, ANSWER, HOURS]
    assert [line["status"] for line in lines if line.get("step_type") == "reranking"] == ["running", "failed"]
    assert lines[-1]["type"] == "done"
