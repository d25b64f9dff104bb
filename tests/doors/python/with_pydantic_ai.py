"""Agents of pydantic-ai, by chat completions and by responses."""

import asyncio

from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider
from told import BASE_URL, KEY, MODEL, QUESTION, failure, tell

provider = OpenAIProvider(base_url=BASE_URL, api_key=KEY)


async def streamed(agent: Agent) -> list[str]:
    async with agent.run_stream(QUESTION) as answer:
        return [text async for text in answer.stream_text(delta=True, debounce_by=None)]


async def both() -> dict[str, object]:
    told = {}
    for name, kind in (("chat", OpenAIChatModel), ("responses", OpenAIResponsesModel)):
        agent = Agent(kind(MODEL, provider=provider), system_prompt="Be brief.")
        answer = await agent.run(QUESTION)
        more = await agent.run("And then?", message_history=answer.all_messages())
        usage = answer.usage() if callable(answer.usage) else answer.usage
        told[name] = {
            "whole": answer.output,
            "streamed": await streamed(agent),
            "tokens": usage.input_tokens + usage.output_tokens,
            "more": more.output,
        }
    return told


told = asyncio.run(both())
nobody = Agent(OpenAIChatModel("nobody", provider=provider))
tell(**told, failure=failure(lambda: nobody.run_sync(QUESTION)))
