"""The tools `ask` and `search`. A call that goes wrong has a result that says so, which a model can read and do better."""

import asyncio
import logging
from collections.abc import Mapping
from contextlib import aclosing
from typing import Annotated, Any

import msgspec
from mcp_types import (
    CallToolRequestParams,
    CallToolResult,
    ContentBlock,
    ListToolsResult,
    PaginatedRequestParams,
    ResourceLink,
    TextContent,
    Tool,
    ToolAnnotations,
)
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from app.api.mcp.caller import UNEXPECTED, Caller, Context
from app.api.mcp.documents import uri_of
from app.api.text import Text
from app.api.v1.search import Hit, SearchInCollections, SearchResult, SearchThroughAssistant, found
from app.errors import FreshetError, NotFound
from app.services.chat import Asked
from app.services.runs import Followed

logger = logging.getLogger(__name__)

_MOST_NAMED = 50
# How long to wait before the next sign of progress within a step, in seconds.
_PROGRESS_EVERY_S = 0.5
_STEP = b'{"type":"step"'

_Assistant = Annotated[Text, Field(min_length=1, max_length=100)]


class _Arguments(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Ask(_Arguments):
    question: Annotated[Text, Field(min_length=1, max_length=50_000, pattern=r"\S")]
    assistant: Annotated[_Assistant, Field(description="Slug or id of the assistant.")]
    session_id: Annotated[
        str | None,
        Field(
            max_length=100,
            description="Of the conversation to go on with, as an answer has told it. Left out: a new one.",
        ),
    ] = None


class Search(_Arguments):
    query: Annotated[Text, Field(min_length=1, max_length=50_000)]
    assistant: Annotated[
        _Assistant | None, Field(description="Slug or id: search what this assistant answers from.")
    ] = None
    collections: Annotated[
        list[Annotated[Text, Field(min_length=1, max_length=100)]] | None,
        Field(
            min_length=1,
            max_length=100,
            description="Names or ids, in place of an assistant; for administrators.",
        ),
    ] = None
    limit: Annotated[int | None, Field(strict=True, ge=1, le=50, description="How many at most.")] = None

    @model_validator(mode="after")
    def _in_one_place(self) -> "Search":
        if (self.assistant is None) == (self.collections is None):
            raise ValueError("give either an assistant or collections")
        return self

    def wanted(self) -> SearchThroughAssistant | SearchInCollections:
        if self.assistant is not None:
            return SearchThroughAssistant(question=self.query, assistant=self.assistant, top_k=self.limit)
        return SearchInCollections(question=self.query, collections=self.collections or [], top_k=self.limit)


class Answer(BaseModel):
    """`[n]` in the text is the source whose `id` is n; `citations` hold what bears each mark out."""

    text: str
    session_id: str
    sources: list[dict[str, Any]]
    citations: list[dict[str, Any]]


_INPUT: Mapping[str, dict[str, Any]] = {"ask": Ask.model_json_schema(), "search": Search.model_json_schema()}
_OUTPUT = {
    "ask": Answer.model_json_schema(mode="serialization"),
    "search": SearchResult.model_json_schema(mode="serialization"),
}


def input_schema(tool: str) -> Mapping[str, Any] | None:
    return _INPUT.get(tool)


async def listed(caller: Caller, _: Context, __: PaginatedRequestParams | None) -> ListToolsResult:
    """With the names of the assistants that the viewer may ask."""
    page = await caller.resources.assistants.page(caller.viewer, after=None, limit=_MOST_NAMED)
    named = [f"{a.slug} ({a.name})" for a in page if a.is_enabled]
    assistants = f"Assistants: {', '.join(named)}." if named else "There is no assistant yet."
    ask = Tool(
        name="ask",
        title="Ask an assistant",
        description=f"Ask a question and get an answer from documents, with its sources. {assistants}",
        input_schema=_INPUT["ask"],
        output_schema=_OUTPUT["ask"],
        annotations=ToolAnnotations(read_only_hint=False, destructive_hint=False, open_world_hint=False),
    )
    search = Tool(
        name="search",
        title="Search documents",
        description=f"Find the passages of documents that fit a question best, the best first. {assistants}",
        input_schema=_INPUT["search"],
        output_schema=_OUTPUT["search"],
        annotations=ToolAnnotations(read_only_hint=True, open_world_hint=False),
    )
    return ListToolsResult(tools=[ask, search])


async def called(caller: Caller, context: Context, params: CallToolRequestParams) -> CallToolResult:
    try:
        if params.name == "ask":
            return await _ask(caller, context, Ask.model_validate(params.arguments or {}))
        if params.name == "search":
            return await _search(caller, Search.model_validate(params.arguments or {}))
        raise NotFound("tool", params.name)
    except ValidationError as error:
        return _failed("invalid_input", _in_words(error))
    except FreshetError as error:
        return _failed(error.code, error.message)
    except Exception:  # the end of a call: nothing of it may reach the client
        logger.exception("the tool %s failed", params.name[:100])
        return _failed("internal_error", UNEXPECTED)


async def _ask(caller: Caller, context: Context, ask: Ask) -> CallToolResult:
    """The turn is one like any other. A client that goes away does not end it."""
    resources = caller.resources
    asked = Asked(message=ask.question, assistant=ask.assistant, session_id=ask.session_id)
    followed = await resources.chat.begin(asked, caller.viewer)
    if context.meta and "progress_token" in context.meta:
        await _tell_progress(context, followed)
    await resources.runs.finished(followed)
    message = await resources.sessions.message(followed.message_id)
    answer = Answer(
        text=message.text,
        session_id=followed.session_id,
        # `content` is the same as `text`, for clients that know no better.
        sources=[{name: source[name] for name in source if name != "content"} for source in message.sources],
        citations=message.citations,
    )
    content: list[ContentBlock] = [TextContent(text=answer.text), *_links(answer)]
    content.append(TextContent(text=f"To go on with this conversation: session_id {answer.session_id}"))
    return CallToolResult(content=content, structured_content=answer.model_dump(mode="json"))


async def _tell_progress(context: Context, followed: Followed) -> None:
    """With each step, and now and then while the answer is said: how many lines it has come, and at what it is."""
    now = asyncio.get_running_loop().time
    told_at, doing = 0.0, ""
    async with aclosing(followed.follow(after=0)) as batches:
        async for batch in batches:
            before = doing
            for line in batch.lines:
                doing = _step_of(line) or doing
            if batch.lines and (doing != before or now() - told_at >= _PROGRESS_EVERY_S):
                told_at = now()
                come = batch.first_seq + len(batch.lines) - 1
                await context.session.report_progress(come, message=doing or None)


def _step_of(line: bytes) -> str | None:
    if not line.startswith(_STEP):
        return None
    step = msgspec.json.decode(line)
    return step.get("label") or step["step_type"].replace("_", " ") if step["status"] == "running" else None


def _links(answer: Answer) -> list[ResourceLink]:
    """One for each document that the answer was given passages of, which this session may read."""
    links: dict[str, tuple[str, list[str]]] = {}
    for source in answer.sources:
        uri = uri_of(source["metadata"]["document_id"], answer.session_id)
        links.setdefault(uri, (source["name"], []))[1].append(f"[{source['id']}]")
    return [
        ResourceLink(name=name, uri=uri, mime_type="text/plain", description=f"Source {', '.join(marks)}")
        for uri, (name, marks) in links.items()
    ]


async def _search(caller: Caller, search: Search) -> CallToolResult:
    resources = caller.resources
    result = await found(search.wanted(), resources.knowledge, resources.assistants, caller.viewer)
    content: list[ContentBlock] = [
        TextContent(text=f"[{number}] {_place(hit)}\n{hit.text}")
        for number, hit in enumerate(result.items, 1)
    ]
    if not content:
        content.append(TextContent(text="Nothing was found."))
    return CallToolResult(content=content, structured_content=result.model_dump(mode="json"))


def _place(hit: Hit) -> str:
    page = f"page {hit.page_label}" if hit.page_label else None
    return ", ".join(part for part in (hit.title or hit.file_name, page, hit.heading, hit.url) if part)


def _failed(code: str, message: str) -> CallToolResult:
    return CallToolResult(content=[TextContent(text=message)], is_error=True, _meta={"code": code})


def _in_words(error: ValidationError) -> str:
    """What was given is not repeated."""
    wrong = [
        f"{'.'.join(map(str, problem['loc'])) or 'all together'}: {problem['msg']}"
        for problem in error.errors(include_url=False, include_input=False)
    ]
    return f"The arguments are not as they should be: {'; '.join(wrong[:5])}."
