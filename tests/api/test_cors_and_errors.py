import json
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from app.main import create_app
from app.resources import Resources
from app.settings import ServerSettings, Settings
from tests.conftest import RunningServer

ORIGIN = "https://chat.example.com"
STREAM = "/api/v1/chat/stream"
EXPECTED_KEYS = {"type", "code", "message", "error", "detail", "id"}


@pytest.fixture
async def broken(settings: Settings) -> AsyncGenerator[httpx.AsyncClient]:
    """The application, with a route that fails for a reason nobody thought of."""

    def never_opened(settings: Settings) -> AbstractAsyncContextManager[Resources]:
        raise AssertionError("without a lifespan nothing is opened")

    app = create_app(settings, never_opened)

    @app.get("/api/v1/broken")
    async def fail() -> None:
        raise RuntimeError("SELECT secret FROM somewhere")

    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://freshet") as http:
        yield http


def assert_problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert response.status_code == status
    assert response.headers["content-type"] == "application/json"
    assert "\n" not in response.text
    assert "Traceback" not in response.text
    problem = response.json()
    assert set(problem) == EXPECTED_KEYS
    assert (problem["type"], problem["code"]) == ("error", code)
    assert problem["message"] == problem["error"] != ""
    assert problem["id"] == response.headers["x-request-id"]
    return problem


def assert_readable_by_its_origin(response: httpx.Response) -> None:
    assert response.headers["access-control-allow-origin"] == ORIGIN
    assert response.headers["access-control-allow-credentials"] == "true"
    assert "Origin" in response.headers["vary"]


Ask = Callable[[httpx.AsyncClient], Coroutine[Any, Any, httpx.Response]]
FAILURES: list[tuple[Ask, int, str]] = [
    (lambda http: http.get("/api/v1/users/me"), 401, "unauthenticated"),
    (lambda http: http.get("/api/v1/nothing/here"), 404, "not_found"),
    (lambda http: http.post(STREAM, json={"message": "Go", "assistant_id": "nobody"}), 404, "not_found"),
    (lambda http: http.put("/healthz"), 405, "method_not_allowed"),
    (lambda http: http.post(STREAM, json={}), 422, "invalid_input"),
    (lambda http: http.post(STREAM, content=b"{", headers={"content-type": "application/json"}), 422, "invalid_input"),
    (lambda http: http.post(STREAM, content=b"hello", headers={"content-type": "text/plain"}), 422, "invalid_input"),
    (lambda http: http.post(STREAM, content=b"x" * 9 * 2**20), 413, "too_large"),
]  # fmt: skip


@pytest.mark.parametrize(("ask", "status", "code"), FAILURES)
async def test_every_failure_has_the_same_shape_and_can_be_read_by_the_front_end(
    client: httpx.AsyncClient, ask: Ask, status: int, code: str
):
    client.headers["origin"] = ORIGIN
    response = await ask(client)
    assert_problem(response, status, code)
    assert_readable_by_its_origin(response)


async def test_an_unexpected_failure_can_be_read_by_the_front_end_and_tells_nothing_of_itself(
    broken: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
):
    response = await broken.get("/api/v1/broken", headers={"origin": ORIGIN})
    problem = assert_problem(response, 500, "internal_error")
    assert "SELECT" not in response.text
    assert_readable_by_its_origin(response)
    assert problem["id"] in caplog.text, "what went wrong is found in the log by the request's id"
    assert "SELECT secret" in caplog.text


async def test_a_stream_can_be_read_by_the_front_end_with_its_ids(
    client: httpx.AsyncClient, server: RunningServer
):
    await server.resources.assistants.create(name="Public")
    body = {"message": "Go", "assistant_id": "public"}
    response = await client.post(STREAM, json=body, headers={"origin": ORIGIN})
    assert json.loads(response.text.splitlines()[-1])["type"] == "done"
    assert_readable_by_its_origin(response)
    assert response.headers["x-request-id"]
    exposed = response.headers["access-control-expose-headers"].lower()
    assert all(name in exposed for name in ("x-session-id", "x-run-id", "x-request-id"))


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example.com", "http://chat.example.com", f"{ORIGIN}.evil.com", f"{ORIGIN}:8443", "null"],
)
async def test_an_origin_that_is_not_named_may_read_nothing(client: httpx.AsyncClient, origin: str):
    for response in (
        await client.get("/healthz", headers={"origin": origin}),
        await client.get("/api/v1/users/me", headers={"origin": origin}),
        await client.options(STREAM, headers={"origin": origin, "access-control-request-method": "POST"}),
    ):
        assert "access-control-allow-origin" not in response.headers


async def test_a_front_end_is_told_beforehand_that_it_may_send_its_token(client: httpx.AsyncClient):
    asked = {
        "origin": ORIGIN,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type,idempotency-key",
    }
    response = await client.options(STREAM, headers=asked)
    assert response.status_code == 200
    assert_readable_by_its_origin(response)
    allowed = response.headers["access-control-allow-headers"].lower()
    assert all(name in allowed for name in ("authorization", "content-type", "idempotency-key"))
    assert "POST" in response.headers["access-control-allow-methods"]
    assert response.headers["x-request-id"]


async def test_without_configured_origins_no_other_site_may_read_anything(settings: Settings):
    app: FastAPI = create_app(
        Settings(
            server=ServerSettings(cors_origins=()),
            database=settings.database,
            security=settings.security,
            model=settings.model,
            embedding=settings.embedding,
            chat=settings.chat,
            ingest=settings.ingest,
            connectors=settings.connectors,
        )
    )
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://freshet") as http:
        response = await http.get("/healthz", headers={"origin": ORIGIN})
    assert response.status_code == 200
    assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/healthz", "GET"),
        ("/api/v1/auth/login", "POST"),
        ("/api/v1/chat/0123456789/history", "GET"),
        ("/api/v1/assistants", "GET, POST"),
        ("/api/v1/assistants/public", "GET, PATCH, DELETE"),
    ],
)
async def test_a_method_that_a_path_does_not_take_is_refused_with_all_those_that_it_takes(
    client: httpx.AsyncClient, path: str, methods: str
):
    response = await client.request("PUT", path)
    assert_problem(response, 405, "method_not_allowed")
    assert response.headers["allow"] == methods


async def test_every_request_has_an_id_of_its_own(client: httpx.AsyncClient):
    ids = {(await client.get("/healthz")).headers["x-request-id"] for _ in range(3)}
    assert len(ids) == 3
