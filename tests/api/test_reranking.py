"""A turn whose passages are reranked by a server, which may fail."""

from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

import pytest
from pydantic import SecretStr

from app.settings import RetrievalSettings, Settings
from tests.api.turns import answered
from tests.conftest import Serve
from tests.fake_reranker import FakeReranker

DANUBE = "The Danube, the Danube, the Danube."
RHINE = "The Rhine is a river of the north, and not so long as others are."
QUESTION = "Danube? Or the rhine is a river of the north"


@pytest.fixture
async def reranker() -> AsyncGenerator[FakeReranker]:
    async with FakeReranker().serving() as running:
        yield running


async def ask(serve: Serve, settings: Settings, **retrieval: Any) -> list[dict[str, Any]]:
    async with serve(replace(settings, retrieval=RetrievalSettings(**retrieval))) as server:
        knowledge = server.resources.knowledge
        for name, text in (("danube.txt", DANUBE), ("rhine.txt", RHINE), ("again.txt", f"{RHINE}\n")):
            await knowledge.ingest_now("waters", name, text.encode())
        await server.resources.assistants.create(
            name="Waters", slug="waters", collections=["waters"], similarity_cutoff=-1, top_k=6
        )
        async with server.client() as client:
            return await answered(client, "waters", message=QUESTION)


def sources_of(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    (sources,) = [line["data"] for line in lines if line["type"] == "sources"]
    return sources


def steps_of(lines: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(line["step_type"], line["status"]) for line in lines if line["type"] == "step"]


async def test_the_reranker_s_order_is_the_one_of_the_sources(
    serve: Serve, settings: Settings, reranker: FakeReranker
):
    lines = await ask(
        serve,
        settings,
        rerank_url=f"{reranker.url}/v2/rerank",
        rerank_model="a-model",
        rerank_api_key=SecretStr("secret"),
    )

    assert [source["text"] for source in sources_of(lines)] == [RHINE, DANUBE]
    assert sorted(reranker.bodies[0]["documents"]) == sorted([DANUBE, RHINE, RHINE])
    opened = next(line for line in lines if line.get("step_type") == "reranking")
    retrieval = next(line for line in lines if line.get("step_type") == "retrieval")
    assert opened["parent_id"] == retrieval["step_id"]
    assert steps_of(lines)[2:6] == [
        ("vectorization", "completed"),
        ("reranking", "running"),
        ("reranking", "completed"),
        ("retrieval", "completed"),
    ]


async def test_the_reranker_is_given_no_more_passages_than_the_setting_allows(
    serve: Serve, settings: Settings, reranker: FakeReranker
):
    lines = await ask(serve, settings, rerank_url=f"{reranker.url}/v2/rerank", rerank_candidates=1)

    assert len(reranker.bodies[0]["documents"]) == 1
    assert {source["text"] for source in sources_of(lines)} == {RHINE, DANUBE}


@pytest.mark.parametrize("fault", ["overloaded", "slow", "too few", "not a number"])
async def test_an_answer_goes_on_in_the_order_of_the_search_when_the_reranker_fails(
    serve: Serve, settings: Settings, reranker: FakeReranker, fault: str
):
    reranker.fault = fault
    lines = await ask(serve, settings, rerank_url=f"{reranker.url}/rerank", rerank_timeout_s=0.2)

    assert ("reranking", "failed") in steps_of(lines)
    assert lines[-1]["type"] == "done"
    assert sources_of(lines)


async def test_what_another_document_says_as_well_is_one_source_that_names_it(
    serve: Serve, settings: Settings
):
    by_text = {source["text"]: source["metadata"] for source in sources_of(await ask(serve, settings))}

    assert by_text.keys() == {DANUBE, RHINE}
    assert "duplicates" not in by_text[DANUBE]
    (other,) = by_text[RHINE]["duplicates"]
    assert other != by_text[RHINE]["document_id"]


async def test_the_settings_bound_a_document_s_sources_and_widen_them(serve: Serve, settings: Settings):
    async with serve(
        replace(settings, retrieval=RetrievalSettings(passages_per_document=1, neighbour_characters=5_000))
    ) as server:
        text = "\n\n".join(f"Sentence{n} of the Rhine. " * 40 for n in range(5))
        await server.resources.knowledge.ingest_now("waters", "rhine.txt", text.encode())
        await server.resources.assistants.create(
            name="Rhine", slug="rhine", collections=["waters"], similarity_cutoff=-1
        )
        async with server.client() as client:
            (source,) = sources_of(await answered(client, "rhine", message="Sentence2"))

    place = source["metadata"]
    assert source["text"].strip() in text
    assert place["end"] - place["start"] == len(source["text"]) > 2_000
