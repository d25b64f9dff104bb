"""Frameworks and tools that speak OpenAI's wire, unchanged, with an assistant as the model."""

from pathlib import Path
from typing import Any

import anyio

from app.services.accounts import AccountService
from tests.api.turns import public
from tests.conftest import RunningServer
from tests.doors.npm import Npm
from tests.doors.pypi import PyPI
from tests.scripted_model import ScriptedModel, says

WATERS = b"# Waters\n\nThe Danube flows into the Black Sea.\n"
PIECES = ['The "Dänube" flows', " into the Black Sea [1]", "."]
TEXT = "".join(PIECES)
SCRIPTS = ("langchain", "llama_index", "pydantic_ai", "llm", "litellm")
# As each of them calls a model that is not there.
NOT_FOUND = ("NotFoundError", "OpenAIModelNotFoundError", "ModelHTTPError")


async def _private(server: RunningServer, accounts: AccountService, model: ScriptedModel) -> dict[str, str]:
    """What a client has to know to ask an assistant that wants a user."""
    await server.resources.knowledge.ingest_now("waters", "waters.md", WATERS)
    model.script = lambda prompt: says(*PIECES)
    slug = await public(server, collections=["waters"], similarity_cutoff=0, user_authentication=True)
    user = await accounts.create_user("ada@example.com", "a password of the tests", "user")
    _, key = await accounts.create_api_key(user.id, "tests")
    return {"SERVER_URL": server.url, "MODEL": slug, "KEY": key}


async def test_clients_in_python_take_an_assistant_for_a_model(
    server: RunningServer, accounts: AccountService, model: ScriptedModel, pypi: PyPI, tmp_path: Path
):
    environment = await _private(server, accounts, model)
    # What LiteLLM would fetch from elsewhere it has with it as well.
    environment["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    told: dict[str, Any] = {}
    two_at_a_time = anyio.CapacityLimiter(2)

    async def run(name: str) -> None:
        async with two_at_a_time:
            told[name] = await pypi.run(f"with_{name}.py", environment, tmp_path)

    async with anyio.create_task_group() as tasks:
        for name in SCRIPTS:
            tasks.start_soon(run, name)

    for name, of_client in told.items():
        assert of_client.pop("failure") in NOT_FOUND, name
        assert of_client.pop("completed", TEXT) == TEXT, name
        for way, answer in of_client.items():
            assert answer["whole"] == "".join(answer["streamed"]) == TEXT, (name, way)
            assert len(answer["streamed"]) > 1, (name, way)
            assert answer["tokens"] == 14, (name, way)
    assert {name for name, of_client in told.items() if "responses" in of_client} == {
        "langchain",
        "pydantic_ai",
        "litellm",
    }
    instructed = [prompt for prompt in model.prompts if "Be brief." in prompt.messages[0].content]
    assert len(instructed) > len(SCRIPTS)


async def test_the_ai_sdk_takes_an_assistant_for_a_model(
    server: RunningServer, accounts: AccountService, model: ScriptedModel, npm: Npm
):
    given = await _private(server, accounts, model)
    told: Any = await npm.run("models.mjs", server.url, MODEL=given["MODEL"], KEY=given["KEY"])

    assert set(told) == {
        f"{version} {way}" for version in (6, 7) for way in ("chat", "responses", "compatible")
    }
    for way, answer in told.items():
        assert answer["whole"] == "".join(answer["streamed"]) == TEXT, way
        assert len(answer["streamed"]) > 1, way
        assert (answer["tokens"], answer["reasons"]) == ([14, 14], ["stop", "stop"]), way
        assert answer["failure"] == 404, way
