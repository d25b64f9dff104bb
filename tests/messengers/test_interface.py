"""The interfaces in Python: what somebody builds a channel of his own on, and what a pipeline gives back."""

import json
from collections.abc import Hashable
from typing import Any, ClassVar

import anyio
import msgspec
import pytest
from anyio import to_thread

from app.errors import InvalidInput, NotFound, Unauthenticated
from app.messengers.interface import (
    CallbackMessengerInterface,
    Context,
    MessengerInterfaceWithAttachments,
    PipelineRunner,
    PollingMessengerInterface,
    Request,
)
from app.messengers.message import Attachment, Document, Image, Message
from app.messengers.pipeline import AssistantPipeline
from app.services.accounts import AccountService
from tests.api.turns import public
from tests.conftest import RunningServer
from tests.messengers.memory import remembered
from tests.scripted_model import ScriptedModel, says


async def echo(
    message: Message, ctx_id: Hashable | None = None, update_ctx_misc: dict[str, Any] | None = None
) -> Context:
    if message.text == "refuse":
        raise NotFound("assistant", "nobody")
    return Context(ctx_id, message, Message(text=f"{message.text}!"), update_ctx_misc or {})


class Letters(PollingMessengerInterface):
    """Gives out one list of letters a round, as plain functions do; `None` is a round that fails."""

    def __init__(self, *rounds: list[str] | None) -> None:
        self.rounds = list(rounds)
        self.told: list[str | None] = []
        self.failures: list[BaseException] = []

    def _request(self) -> list[Request]:
        letters = self.rounds.pop(0)
        if letters is None:
            raise OSError("the line is dead")
        return [(Message(text=letter), "ada") for letter in letters]

    def _respond(self, responses: list[Context]) -> None:
        self.told += [response.last_response.text for response in responses]

    def _on_exception(self, e: BaseException) -> None:
        self.failures.append(e)


async def test_polling_goes_on_after_a_failure_and_tells_what_was_refused() -> None:
    letters = Letters(["one"], None, ["refuse", "two"])
    with anyio.fail_after(5):
        await letters.connect(echo, lambda: bool(letters.rounds))
    assert letters.told == ["one!", "There is no assistant nobody.", "two!"]
    assert [str(failure) for failure in letters.failures] == ["the line is dead"]


async def test_polling_that_is_cancelled_says_so_and_ends() -> None:
    letters = Letters()
    with anyio.move_on_after(0):
        await letters.connect(echo)
    assert [type(failure).__name__ for failure in letters.failures] == ["CancelledError"]


async def test_a_callback_answers_with_and_without_a_loop() -> None:
    called = CallbackMessengerInterface()
    with pytest.raises(RuntimeError):
        await called.on_request_async(Message(text="one"))
    await called.connect(echo)
    assert (await called.on_request_async(Message(text="one"), "ada", {"a": 1})).misc == {"a": 1}
    context = await to_thread.run_sync(called.on_request, Message(text="two"), "ada")
    assert (context.id, context.last_request.text, context.last_response.text) == ("ada", "two", "two!")


async def test_an_interface_names_the_attachments_that_it_takes() -> None:
    class Files(MessengerInterfaceWithAttachments):
        supported_request_attachment_types: ClassVar[set[type[Attachment]]] = {Document}

        async def connect(self, pipeline_runner: PipelineRunner) -> None: ...

        async def get_attachment_bytes(self, source: str) -> bytes:
            return source.encode()

    files = Files()
    assert await files.get_attachment_bytes("7") == b"7"
    assert files.supported_response_attachment_types == set()


def test_a_message_is_the_same_in_json() -> None:
    told = {
        "text": "See these",
        "attachments": [
            {"chatsky_attachment_type": "document", "id": "7"},
            {"chatsky_attachment_type": "image", "source": "https://example.com/a.png"},
        ],
        "origin": {"message": {"update_id": 1}, "interface": "telegram"},
    }
    message = msgspec.json.decode(json.dumps(told), type=Message)
    assert message.attachments == [Document(id="7"), Image(source="https://example.com/a.png")]
    assert message.original_message == {"update_id": 1}
    assert Message().original_message is None
    assert json.loads(msgspec.json.encode(message)) == told
    with pytest.raises(ValueError, match="either a source or an id"):
        Document()


async def test_a_conversation_goes_on_stays_apart_and_is_forgotten(
    server: RunningServer, model: ScriptedModel
) -> None:
    pipeline = AssistantPipeline(server.resources, "tests", await public(server))
    heard: list[str] = []
    first = await pipeline(Message(text="One\0?"), "ada", heard=lambda event: heard.append(event["type"]))
    assert first.last_response.text == "An answer to One?"
    assert (heard[0], heard[-1]) == ("start", "done")
    await pipeline(Message(text="Two?"), "ada")
    await pipeline(Message(text="Three?"), "bob")
    await pipeline.forget("ada")
    await pipeline(Message(text="Four?"), "ada")
    alone = await pipeline(Message(text="Five?"))
    assert len(str(alone.id)) == 36
    assert remembered(model) == [0, 2, 0, 0, 0]


async def test_the_same_id_over_another_channel_is_another_conversation(server: RunningServer) -> None:
    resources, slug = server.resources, await public(server)
    names = {AssistantPipeline(resources, channel, slug).session_id("ada") for channel in ("one", "two")}
    assert len(names) == 2
    assert {len(name) for name in names} == {43}


async def test_a_key_that_comes_again_asks_nothing_again(server: RunningServer, model: ScriptedModel) -> None:
    pipeline = AssistantPipeline(server.resources, "tests", await public(server))
    runs = {(await pipeline.begin(Message(text="Once?"), "ada", key="17")).run_id for _ in range(2)}
    assert len(runs) == 1


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (Message(), "no text"),
        (Message(text=" \0 "), "no text"),
        (Message(attachments=[Document(id="7")]), "Files are not read here"),
        (Message(text="a" * 50_001), "longer than 50,000 characters"),
    ],
    ids=["nothing", "blank", "file", "long"],
)
async def test_what_cannot_be_asked_is_refused_in_words(
    server: RunningServer, message: Message, words: str
) -> None:
    pipeline = AssistantPipeline(server.resources, "tests", "anybody")
    with pytest.raises(InvalidInput, match=words):
        await pipeline(message, "ada")


async def test_a_private_assistant_is_asked_as_the_user_of_the_settings(
    server: RunningServer, accounts: AccountService, model: ScriptedModel
) -> None:
    private = await server.resources.assistants.create(
        name="Private", user_authentication=True, first_message="Welcome."
    )
    model.script = lambda prompt: says("Only for users.")
    anonymous = AssistantPipeline(server.resources, "tests", private.slug)
    with pytest.raises(Unauthenticated):
        await anonymous.first_message()
    user = await accounts.create_user("bot@example.com", "a password of the tests", "user")
    known = AssistantPipeline(server.resources, "tests", private.slug, email=user.email)
    assert await known.first_message() == "Welcome."
    assert (await known(Message(text="Hello?"), "ada")).last_response.text == "Only for users."
    await accounts.change_user(user.id, is_active=False)
    with pytest.raises(Unauthenticated, match="no longer active"):
        await known(Message(text="Hello?"), "ada")
