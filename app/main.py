"""The only place that puts the parts together."""

import re
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

from fastapi import FastAPI
from fastapi.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.types import Receive, Scope, Send

from app import __version__
from app.api import agents, inbound
from app.api.errors import add_error_handlers
from app.api.mcp import door as mcp
from app.api.middleware import BodyLimit, RequestGuard, RequestId
from app.api.openai import completions, conversations, files, models, responses, vector_stores
from app.api.streaming import send_handed_over
from app.api.v1 import (
    assistants,
    attachments,
    auth,
    chat,
    connectors,
    document_work,
    documents,
    event_schema,
    feedback,
    health,
    history,
    outcomes,
    search,
    sessions,
    ui,
    usage,
)
from app.api.websocket import conversation, tokens
from app.messengers.channels import open_channels, paths
from app.resources import Resources, open_resources
from app.settings import Settings

_API = "/api/v1"
_OPENAI = "/v1"

_DESCRIPTION = """\
Answers from your own documents, streamed token by token, every claim tied to a source.

Ask with `POST /api/v1/chat/stream`; the lines it answers with are described in `docs/protocol.md`.
"""


class Application(FastAPI):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send_handed_over(super().__call__, scope, receive, send)


def create_app(
    settings: Settings | None = None,
    open_parts: Callable[[Settings], AbstractAsyncContextManager[Resources]] | None = None,
) -> FastAPI:
    """The application; its parts live as long as its lifespan. Without settings, they are read from the environment."""
    loaded = settings or Settings.load()
    open_all = open_parts or partial(open_resources, works=loaded.ingest.ingest_in_server)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[dict[str, Resources]]:
        async with open_all(loaded) as resources, open_channels(resources) as channels:
            app.state.resources = resources
            app.state.channels = channels
            yield {"resources": resources}

    server = loaded.server
    app = Application(
        title="Freshet",
        version=__version__,
        description=_DESCRIPTION,
        lifespan=lifespan,
        middleware=[
            Middleware(RequestId),
            Middleware(
                CORSMiddleware,
                allow_origins=list(server.cors_origins),
                allow_credentials=server.cors_credentials,
                allow_methods=["*"],
                allow_headers=["*"],
                expose_headers=["x-session-id", "x-run-id", "x-request-id", "retry-after"],
            ),
            Middleware(RequestGuard),
            Middleware(
                BodyLimit,
                max_bytes=server.max_body_bytes,
                uploads=re.compile(
                    rf"{_API}/documents(/[^/]+/file)?|{_API}/chat/[^/]+/attachments|{_OPENAI}/files"
                ),
                max_upload_bytes=loaded.ingest.max_upload_bytes,
            ),
        ],
    )
    add_error_handlers(app)
    app.include_router(health.router)
    for part in (
        event_schema,
        chat,
        ui,
        history,
        feedback,
        outcomes,
        attachments,
        usage,
        sessions,
        assistants,
        documents,
        document_work,
        connectors,
        search,
        auth,
    ):
        app.include_router(part.router, prefix=_API)
    # Clients of such agents know them at the root; there the same calls are not described again.
    app.include_router(agents.router, prefix=f"{_API}/agents")
    app.include_router(agents.router, prefix="/agents", include_in_schema=False)
    # Their clients know these addresses; the others are the same ones among our own.
    app.include_router(tokens.router, include_in_schema=False)
    app.include_router(conversation.router)
    app.include_router(tokens.router, prefix=_API)
    app.include_router(conversation.router_of_api, prefix=_API)
    for door in (models, completions, responses, conversations, files, vector_stores):
        app.include_router(door.router, prefix=_OPENAI)
    for path in paths(loaded.messengers):
        app.include_router(inbound.router(path))
    app.include_router(mcp.router)
    return app
