from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import anyio
import pytest

from app.errors import ModelFailed, ModelIncomplete, ModelRejected, ModelSilent, ModelUnavailable
from app.llm.reranker_endpoint import EndpointReranker, Form, form_of
from tests.fake_reranker import FakeReranker

PATHS: dict[Form, str] = {"cohere": "/v2/rerank", "jina": "/v1/rerank", "tei": "/rerank"}
PASSAGES = ("The rent is due.", "The deposit is paid back with the rent.", "Noise.")
all_forms = pytest.mark.parametrize("form", PATHS)


@pytest.fixture
async def server() -> AsyncGenerator[FakeReranker]:
    async with FakeReranker().serving() as running:
        yield running


async def scores(
    server: FakeReranker,
    passages: Sequence[str] = PASSAGES,
    *,
    question: str = "rent",
    form: Form = "tei",
    limit_s: float = 5,
) -> list[float]:
    reranker = EndpointReranker(server.url + PATHS[form], form, model="m", api_key="secret", limit_s=limit_s)
    async with aclosing(reranker):
        return (await reranker.scores(question, passages)).tolist()


@all_forms
async def test_scores_come_in_the_order_of_the_passages(server: FakeReranker, form: Form):
    assert await scores(server, question="deposit rent", form=form) == [1, 2, 0]
    assert server.forms == [form]


def test_the_path_tells_the_form():
    forms = {
        url: form_of(url)
        for url in ("https://a.example/v2/rerank", "http://b/v1/rerank/", "http://c:80/rerank")
    }

    assert list(forms.values()) == ["cohere", "jina", "tei"]


@all_forms
async def test_the_key_is_sent_and_the_model_named_where_the_form_has_one(server: FakeReranker, form: Form):
    await scores(server, form=form)

    assert server.last.headers["authorization"] == "Bearer secret"
    assert server.bodies[0].get("model") == (None if form == "tei" else "m")


async def test_many_passages_are_asked_about_in_requests_of_at_most_32(server: FakeReranker):
    passages = [f"rent {'rent ' * (n % 3)}{n}" for n in range(70)]

    assert await scores(server, passages) == [1 + n % 3 for n in range(70)]
    assert sorted(len(body["texts"]) for body in server.bodies) == [6, 32, 32]


async def test_no_passages_need_no_request(server: FakeReranker):
    assert await scores(server, []) == []
    assert server.bodies == []


@all_forms
@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("overloaded", ModelUnavailable),
        ("refused", ModelRejected),
        ("too few", ModelIncomplete),
        ("one twice", ModelIncomplete),
        ("not a number", ModelIncomplete),
        ("too large", ModelIncomplete),
        ("no score", ModelIncomplete),
        ("no list", ModelIncomplete),
        ("no JSON", ModelIncomplete),
        ("cut off", ModelUnavailable),
    ],
)
async def test_a_fault_of_the_server_is_told(
    server: FakeReranker, form: Form, fault: str, error: type[ModelFailed]
):
    server.fault = fault

    with pytest.raises(error):
        await scores(server, form=form)


async def test_a_slow_server_is_waited_for_no_longer_than_the_limit(server: FakeReranker):
    server.fault = "slow"

    with anyio.fail_after(5), pytest.raises(ModelSilent):
        await scores(server, [*PASSAGES] * 20, limit_s=0.1)


async def test_a_server_that_is_not_there_is_told():
    absent = EndpointReranker("http://127.0.0.1:9/rerank", "tei", model=None, api_key=None, limit_s=5)

    async with aclosing(absent):
        with pytest.raises(ModelUnavailable):
            await absent.scores("rent", PASSAGES)
    assert absent.name == "tei"
