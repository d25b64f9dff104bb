"""LangChain's `ChatOpenAI`, by chat completions and by responses."""

from langchain_openai import ChatOpenAI
from told import BASE_URL, KEY, MODEL, QUESTION, failure, tell


def chat(model: str = MODEL, *, responses: bool = False) -> ChatOpenAI:
    return ChatOpenAI(model=model, base_url=BASE_URL, api_key=KEY, max_retries=0, use_responses_api=responses)


told = {}
for name, responses in (("chat", False), ("responses", True)):
    asked = [("system", "Be brief."), ("user", QUESTION)]
    answer = chat(responses=responses).invoke(asked)
    told[name] = {
        "whole": answer.text,
        "streamed": [chunk.text for chunk in chat(responses=responses).stream(asked) if chunk.text],
        "tokens": answer.usage_metadata["total_tokens"],
    }
tell(**told, failure=failure(lambda: chat("nobody").invoke(QUESTION)))
