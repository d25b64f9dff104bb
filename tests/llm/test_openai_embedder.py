import base64
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import anyio
import numpy as np
import pytest
from aiohttp import web
from openai import AsyncOpenAI, DefaultAioHttpClient

from app.errors import ModelFailed, ModelIncomplete, ModelRejected, ModelSilent, ModelUnavailable
from app.llm.openai_embedder import OpenAIEmbedder

DIMENSIONS = 4

Answer = Callable[[dict[str, Any]], Awaitable[web.StreamResponse]]


def vector_of(text: str) -> list[float]:
    """Tells texts apart, and has not unit length."""
    return [3.0, float(len(text)), float(sum(map(ord, text)) % 97), 1.0]


def unit(text: str) -> np.ndarray[Any, Any]:
    vector = np.array(vector_of(text))
    return vector / np.linalg.norm(vector)


class Server:
    """Speaks `/embeddings` as OpenAI does, until `answer` is replaced."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.last: web.Request
        self.answer: Answer = self.usual

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests.append(body)
        self.last = request
        return await self.answer(body)

    async def usual(self, body: dict[str, Any]) -> web.StreamResponse:
        return web.json_response({"data": self.rows(body)})

    def rows(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        return [
            {
                "index": index,
                "embedding": self.encoded(vector_of(text)) if "base64" in str(body) else vector_of(text),
            }
            for index, text in enumerate(body["input"])
        ]

    def encoded(self, vector: list[float]) -> str:
        return base64.b64encode(np.array(vector, "<f4").tobytes()).decode()

    def answers(self, status: int = 200, **body: Any) -> None:
        async def answer(_: dict[str, Any]) -> web.StreamResponse:
            return web.json_response(body, status=status)

        self.answer = answer


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
async def address(server: Server) -> AsyncGenerator[str]:
    application = web.Application()
    application.router.add_post("/v1/embeddings", server.handle)
    runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    await runner.cleanup()


@pytest.fixture
async def client(address: str) -> AsyncGenerator[AsyncOpenAI]:
    async with AsyncOpenAI(
        api_key="k", base_url=address, max_retries=0, timeout=5, http_client=DefaultAioHttpClient()
    ) as client:
        yield client


@pytest.fixture
async def embedder(client: AsyncOpenAI) -> OpenAIEmbedder:
    embedder = OpenAIEmbedder(client, "some-model")
    await embedder.connect()
    return embedder


async def test_passages_become_rows_of_unit_length_in_their_order(embedder: OpenAIEmbedder):
    passages = ["one", "a second", "and a third"]

    vectors = await embedder.embed_passages(passages)

    assert vectors.dtype == np.float32
    assert vectors == pytest.approx(np.stack([unit(passage) for passage in passages]), abs=1e-6)


async def test_a_question_becomes_one_vector(embedder: OpenAIEmbedder):
    assert await embedder.embed_question("why?") == pytest.approx(unit("why?"), abs=1e-6)


async def test_a_server_that_knows_no_base64_may_answer_with_decimals(
    embedder: OpenAIEmbedder, server: Server
):
    server.answers(data=[{"index": 0, "embedding": vector_of("why?")}])

    assert await embedder.embed_question("why?") == pytest.approx(unit("why?"), abs=1e-6)


async def test_rows_are_ordered_by_their_index(embedder: OpenAIEmbedder, server: Server):
    async def shuffled(body: dict[str, Any]) -> web.StreamResponse:
        return web.json_response({"data": server.rows(body)[::-1]})

    server.answer = shuffled

    vectors = await embedder.embed_passages(["one", "a second", "and a third"])

    assert vectors[0] == pytest.approx(unit("one"), abs=1e-6)


async def test_many_passages_are_sent_in_requests_of_a_bounded_size_and_number(
    embedder: OpenAIEmbedder, server: Server
):
    server.requests.clear()
    running, most, full = 0, 0, anyio.Event()

    async def together(body: dict[str, Any]) -> web.StreamResponse:
        nonlocal running, most
        running += 1
        most = max(most, running)
        if running == 4:
            full.set()
        await full.wait()
        answer = await server.usual(body)
        running -= 1
        return answer

    server.answer = together
    passages = [f"passage {'i' * number}" for number in range(200)]

    with anyio.fail_after(5):
        vectors = await embedder.embed_passages(passages)

    assert [len(request["input"]) for request in server.requests] == [32] * 6 + [8]
    assert most == 4
    assert vectors == pytest.approx(np.stack([unit(passage) for passage in passages]), abs=1e-6)


async def test_nothing_is_not_sent(embedder: OpenAIEmbedder, server: Server):
    server.requests.clear()

    assert (await embedder.embed_passages([])).shape == (0, DIMENSIONS)
    assert server.requests == []


async def test_an_empty_text_is_sent_as_a_space(embedder: OpenAIEmbedder, server: Server):
    await embedder.embed_passages(["", "x"])

    assert server.requests[-1]["input"] == [" ", "x"]


async def test_a_text_is_cut_to_what_is_read_of_a_passage(embedder: OpenAIEmbedder, server: Server):
    await embedder.embed_passages(["letters " * 1000, "水" * 1000, "letters"])

    latin, chinese, short = server.requests[-1]["input"]
    assert embedder.count_tokens(latin) == 512
    assert embedder.count_tokens(chinese) in (511, 512)
    assert set(chinese) == {"水"}
    assert short == "letters"


async def test_the_dimensions_are_found_out_once_and_never_asked_for(client: AsyncOpenAI, server: Server):
    embedder = OpenAIEmbedder(client, "some-model")
    with pytest.raises(ModelUnavailable):
        _ = embedder.dimensions

    await embedder.connect()
    await embedder.connect()

    assert (embedder.dimensions, embedder.name) == (DIMENSIONS, "some-model/4")
    assert len(server.requests) == 1
    assert "dimensions" not in server.requests[0]


async def test_chosen_dimensions_are_asked_for_and_need_no_connection(client: AsyncOpenAI, server: Server):
    embedder = OpenAIEmbedder(client, "some-model", DIMENSIONS)

    await embedder.connect()
    assert server.requests == []
    await embedder.embed_question("why?")

    assert server.requests[0]["dimensions"] == DIMENSIONS


async def test_a_server_that_ignores_the_chosen_dimensions_is_told_from_the_answer(client: AsyncOpenAI):
    embedder = OpenAIEmbedder(client, "some-model", 256)

    with pytest.raises(ModelIncomplete, match="4 dimensions instead of 256"):
        await embedder.embed_question("why?")


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, ModelRejected),
        (401, ModelRejected),
        (403, ModelRejected),
        (404, ModelRejected),
        (413, ModelRejected),
        (422, ModelRejected),
        (408, ModelUnavailable),
        (429, ModelUnavailable),
        (500, ModelUnavailable),
        (503, ModelUnavailable),
    ],
)
async def test_a_refusal_is_told_from_an_overload(
    embedder: OpenAIEmbedder, server: Server, status: int, error: type[ModelFailed]
):
    server.answers(status=status, error={"message": "sk-secret"})

    with pytest.raises(error, match=str(status)) as failure:
        await embedder.embed_passages(["one"])

    assert "sk-secret" not in failure.value.message
    assert failure.value.__cause__ is not None


@pytest.mark.parametrize(
    "data",
    [
        [],
        [{"index": 0, "embedding": [1, 0, 0, 0]}],
        [{"index": index, "embedding": [1, 0, 0, 0]} for index in (0, 0)],
        [{"index": index, "embedding": [1, 0, 0, 0]} for index in (0, 2)],
        [{"index": index, "embedding": [1, 0, 0, 0]} for index in (0, 1, 2)],
    ],
)
async def test_as_many_vectors_as_texts_are_accepted_and_no_others(
    embedder: OpenAIEmbedder, server: Server, data: list[dict[str, Any]]
):
    server.answers(data=data)

    with pytest.raises(ModelIncomplete, match="given 2 texts"):
        await embedder.embed_passages(["one", "a second"])


@pytest.mark.parametrize("embedding", [[0, 0, 0, 0], "AADAfwAAgD8AAAAAAAAAAA=="])
async def test_a_vector_that_cannot_be_normalised_is_refused(
    embedder: OpenAIEmbedder, server: Server, embedding: object
):
    server.answers(data=[{"index": 0, "embedding": embedding}])

    with pytest.raises(ModelIncomplete, match="no direction"):
        await embedder.embed_question("why?")


async def test_a_model_of_no_dimensions_is_refused(client: AsyncOpenAI, server: Server):
    server.answers(data=[{"index": 0, "embedding": ""}])

    with pytest.raises(ModelIncomplete, match="no dimensions"):
        await OpenAIEmbedder(client, "some-model").connect()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<html>Bad gateway</html>",
        '{"data": [{"index": 0, "embedding"',
        '{"error": {"message": "sk-secret"}}',
        '{"data": [{"index": 0, "embedding": "not base64!"}]}',
        '{"data": [{"index": 0, "embedding": "AAAA"}]}',
        '{"data": [{"index": 0, "embedding": null}]}',
        json.dumps({"data": [{"index": 0, "embedding": [1, "x", 0, 0]}]}),
    ],
)
async def test_an_answer_that_is_none_is_told_as_such(embedder: OpenAIEmbedder, server: Server, text: str):
    async def garbage(_: dict[str, Any]) -> web.StreamResponse:
        return web.Response(text=text, content_type="application/json")

    server.answer = garbage

    with pytest.raises(ModelIncomplete, match="not a list of vectors"):
        await embedder.embed_question("why?")


async def test_a_server_that_says_nothing_is_not_waited_for_longer_than_the_client_waits(
    embedder: OpenAIEmbedder, client: AsyncOpenAI, server: Server
):
    async def hang(_: dict[str, Any]) -> web.StreamResponse:
        await anyio.sleep_forever()
        raise AssertionError

    server.answer = hang
    client.timeout = 0.05

    with anyio.fail_after(5), pytest.raises(ModelSilent):
        await embedder.embed_question("why?")


async def test_a_server_that_breaks_off_is_unavailable(embedder: OpenAIEmbedder, server: Server):
    async def break_off(_: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(server.last)
        await response.write(b'{"data": [')
        assert server.last.transport is not None
        server.last.transport.abort()
        return response

    server.answer = break_off

    with pytest.raises(ModelUnavailable, match="could not be reached"):
        await embedder.embed_question("why?")


async def test_a_server_that_is_not_there_is_unavailable():
    async with AsyncOpenAI(
        api_key="k", base_url="http://127.0.0.1:1/v1", max_retries=0, http_client=DefaultAioHttpClient()
    ) as client:
        with pytest.raises(ModelUnavailable, match="could not be reached"):
            await OpenAIEmbedder(client, "some-model").connect()


async def test_one_failed_request_ends_the_others(embedder: OpenAIEmbedder, server: Server):
    async def one_fails(body: dict[str, Any]) -> web.StreamResponse:
        if "bad" in body["input"]:
            return web.json_response({}, status=500)
        await anyio.sleep_forever()
        raise AssertionError

    server.answer = one_fails

    with anyio.fail_after(4), pytest.raises(ModelUnavailable):
        await embedder.embed_passages(["good"] * 100 + ["bad"])


async def test_closing_the_embedder_leaves_the_client_open(embedder: OpenAIEmbedder, client: AsyncOpenAI):
    await embedder.aclose()

    assert not client.is_closed()


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", 0),
        ("The notice period is three months to the end of a quarter.", 16),
        ("2026-11-22", 6),
        ("größer", 3),
        ("日本語", 4),
        ("🙂", 3),
    ],
)
async def test_tokens_are_estimated_by_script(embedder: OpenAIEmbedder, text: str, tokens: int):
    assert embedder.count_tokens(text) == tokens
