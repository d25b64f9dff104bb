import pytest

from app.errors import ModelRejected, ModelUnavailable, ShapeNotMet
from app.llm.protocols import ChatMessage, Prompt, Usage
from app.rag import writing
from app.rag.shape import schema_of
from app.rag.writing import Filled
from tests.scripted_model import Act, ScriptedModel, says

RECORD = schema_of({"city": "where to", "nights": "integer"})


async def filled(model: ScriptedModel, *replies: str | ModelRejected | ModelUnavailable) -> Filled:
    left = list(replies)

    def script(prompt: Prompt) -> list[Act]:
        reply = left.pop(0)
        return says(reply, usage=Usage(10, 3)) if isinstance(reply, str) else [reply]

    model.script = script
    asked = [ChatMessage("system", "Fill it."), ChatMessage("user", "Three nights in Vienna.")]
    return await writing.fill(model, asked, RECORD, named_model="another")


@pytest.mark.parametrize(
    "reply",
    [
        '{"city": "Vienna", "nights": 3}',
        '```json\n{"city": "Vienna", "nights": 3}\n```',
        'Here it is: {"city": "Vienna", "nights": 3}. Anything else?',
    ],
)
async def test_the_value_is_found_in_what_the_model_says(model: ScriptedModel, reply: str):
    assert (await filled(model, reply)).value == {"city": "Vienna", "nights": 3}
    (prompt,) = model.prompts
    assert (prompt.schema, prompt.is_strict, prompt.model) == (RECORD.schema, True, "another")
    assert '"where to"' in prompt.messages[0].content


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        ('{"city": 1, "nights": 3}', "city: 1 is not of type"),
        ('{"city": "Vie', "not JSON"),
        ("No.", "not JSON"),
    ],
)
async def test_what_does_not_fit_is_put_right_by_the_model_and_both_tries_are_counted(
    model: ScriptedModel, reply: str, told: str
):
    made = await filled(model, reply, '{"city": "Vienna", "nights": null}')
    assert made.value == {"city": "Vienna", "nights": None}
    assert made.usage.total_tokens == 26
    again = model.prompts[-1].messages
    assert (again[-2].role, again[-2].content) == ("assistant", reply)
    assert told in again[-1].content


async def test_what_does_not_fit_then_either_is_an_error_that_tells_the_places(model: ScriptedModel):
    with pytest.raises(ShapeNotMet) as refused:
        await filled(model, "{}", '{"city": 1, "nights": "three"}', "never asked for")
    assert refused.value.detail == {"places": [["city"], ["nights"]]}


async def test_a_server_that_knows_no_schemas_is_told_in_words_alone(model: ScriptedModel):
    made = await filled(model, ModelRejected("Unknown parameter."), "{}", '{"city": null, "nights": 1}')
    assert made.value == {"city": None, "nights": 1}
    assert [prompt.schema is None for prompt in model.prompts] == [False, True, True]
    assert '"where to"' in model.prompts[1].messages[0].content


async def test_other_failures_stay_what_they_are(model: ScriptedModel):
    with pytest.raises(ModelUnavailable):
        await filled(model, ModelUnavailable("Too much to do."))
    assert len(model.prompts) == 1
