"""The channels that are spoken to over HTTP: what is posted to one of them is handed to it as it came."""

from collections.abc import Mapping
from typing import Any, Protocol

from fastapi import APIRouter, Request, Response

from app import json_text


class Receiver(Protocol):
    async def receive(self, headers: Mapping[str, str], query: Mapping[str, str], body: bytes) -> Any: ...


def router(path: str) -> APIRouter:
    """Of the channel that the application has under this path once it serves."""
    made = APIRouter(tags=["messengers"])

    @made.post(path, response_model=None, summary="A message, in the channel's own form")
    async def post(request: Request) -> Response:
        channel: Receiver = request.app.state.channels[path]
        answer = await channel.receive(request.headers, request.query_params, await request.body())
        return Response(json_text.encode(answer), media_type="application/json")

    return made
