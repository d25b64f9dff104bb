"""LlamaIndex's `OpenAILike`."""

from llama_index.core.base.llms.types import ChatMessage
from llama_index.llms.openai_like import OpenAILike
from told import BASE_URL, KEY, MODEL, QUESTION, failure, tell


def llm(model: str = MODEL) -> OpenAILike:
    return OpenAILike(model=model, api_base=BASE_URL, api_key=KEY, is_chat_model=True, max_retries=0)


asked = [ChatMessage(role="system", content="Be brief."), ChatMessage(role="user", content=QUESTION)]
answer = llm().chat(asked)
chat = {
    "whole": answer.message.content,
    "streamed": [chunk.delta for chunk in llm().stream_chat(asked) if chunk.delta],
    "tokens": answer.raw.usage.total_tokens,
}
tell(
    chat=chat,
    completed=llm().complete(QUESTION).text,
    failure=failure(lambda: llm("nobody").complete(QUESTION)),
)
