"""A pipeline of the `chatsky` package whose one node answers what a server of ours answers. Run as a program, as importing
chatsky patches the event loop: ADDRESS, ASSISTANT and the questions; what was answered is printed as JSON."""

import asyncio
import json
import sys
from typing import Any
from uuid import uuid4

import httpx
from chatsky import RESPONSE, TRANSITIONS, BaseResponse, Context, Message, Pipeline, Transition, dst
from chatsky.messengers.common import CallbackMessengerInterface

_ADDRESS, _ASSISTANT, *_QUESTIONS = sys.argv[1:]


class OverTheCallback(BaseResponse):
    async def call(self, ctx: Context) -> Message:
        body = ctx.last_request.model_dump_json()
        async with httpx.AsyncClient(base_url=_ADDRESS) as http:
            response = await http.post("/chat", content=body, params={"user_id": ctx.id})
        return Message.model_validate_json(response.raise_for_status().content)


class OverTheApi(BaseResponse):
    async def call(self, ctx: Context) -> Message:
        body = {
            "message": ctx.last_request.text,
            "assistant_id": _ASSISTANT,
            "session_id": f"chatsky-{ctx.id}",
        }
        async with httpx.AsyncClient(base_url=_ADDRESS) as http:
            answer = (await http.post("/api/v1/chat", json=body)).raise_for_status().json()
        return Message(answer["text"], misc={"sources": answer["sources"]})


async def conversation(response: BaseResponse) -> list[str | None]:
    messenger: Any = CallbackMessengerInterface()
    node: Any = {RESPONSE: response, TRANSITIONS: [Transition(dst=dst.Current())]}
    pipeline: Any = Pipeline({"flow": {"node": node}}, ("flow", "node"), messenger_interface=messenger)
    await messenger.connect(pipeline._run_pipeline)
    user_id = str(uuid4())
    told: list[str | None] = []
    for question in _QUESTIONS:
        context: Context = await messenger.on_request_async(Message(question), user_id)
        assert context.last_response is not None
        told.append(context.last_response.text)
    return told


async def main() -> None:
    print(json.dumps([await conversation(OverTheCallback()), await conversation(OverTheApi())]))  # noqa: T201


asyncio.run(main())
