"""`/v1/responses` and `/v1/chat/completions` through OpenAI's client for JavaScript, whose runner knows its own events only."""

from typing import Any

import anyio

from app.errors import ModelIncomplete
from app.llm.protocols import Prompt
from tests.api.turns import public
from tests.conftest import RunningServer
from tests.doors.npm import Npm
from tests.scripted_model import Act, ScriptedModel, says

WATERS = b"# Waters\n\nThe Danube flows into the Black Sea.\n"
TEXT = 'The "Dänube" flows into the Black Sea [1].'


def play(prompt: Prompt) -> list[Act]:
    if prompt.model == "failing":
        return [["The"], ModelIncomplete("It broke off.")]
    if prompt.model == "endless":
        return [["The"], anyio.Event()]
    if prompt.model == "cut":
        return says("The", reason="length")
    return says('The "Dänube" flows', " into the Black Sea [1]", ".")


async def test_the_client_for_javascript_takes_an_answer_in_all_its_ways(
    server: RunningServer, model: ScriptedModel, npm: Npm
):
    await server.resources.knowledge.ingest_now("waters", "waters.md", WATERS)
    model.script = play
    told: Any = await npm.run(
        "openai_client.mjs",
        server.url,
        MODEL=await public(server, collections=["waters"], similarity_cutoff=0),
        FAILING=await public(server, model="failing"),
        ENDLESS=await public(server, model="endless"),
        CUT=await public(server, model="cut"),
    )
    response = told["runner"]["response"]
    assert response["output_text"] == TEXT
    assert response["status"] == "completed"
    (annotation,) = response["output"][0]["content"][0]["annotations"]
    assert (annotation["filename"], annotation["type"]) == ("waters.md", "file_citation")
    assert told["runner"]["types"][-1] == "response.completed"
    assert told["again"]["response"]["output_text"] == TEXT
    assert told["again"]["types"] == told["runner"]["types"][4:]
    assert told["resumed"] == told["events"][5:]
    assert told["whole"]["output_text"] == TEXT
    assert told["items"] == ["user", "assistant"]
    assert told["failed"]["response"]["status"] == "failed"
    assert told["cut"]["response"]["status"] == "incomplete"
    assert told["cancelled"]["response"]["status"] == "cancelled"
    assert told["refused"] == {"status": 404, "code": "response_not_found"}
    assert told["chat"]["choices"][0]["message"]["content"] == TEXT
    assert told["chat"]["usage"]["total_tokens"] > 0


async def test_the_ai_sdk_refers_to_an_answer_that_was_given(
    server: RunningServer, model: ScriptedModel, npm: Npm
):
    await server.resources.knowledge.ingest_now("waters", "waters.md", WATERS)
    model.script = play
    slug = await public(server, collections=["waters"], similarity_cutoff=0)
    told: Any = await npm.run("openai_ai_sdk.mjs", server.url, MODEL=slug)
    expected: dict[str, Any] = {"text": TEXT, "source": "waters.md", "warnings": []}
    assert told == {"6": expected, "7": expected}
    for prompt in model.prompts[1::2]:
        # A model that is told of an earlier answer is not given its marks.
        said = ["Where does the Danube flow?", TEXT.replace(" [1]", "")]
        assert [message.content for message in prompt.messages[1:3]] == said
