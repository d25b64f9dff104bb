"""LiteLLM, by chat completions and by responses."""

from litellm import completion, responses
from told import BASE_URL, KEY, MODEL, QUESTION, failure, tell

server = {"api_base": BASE_URL, "api_key": KEY, "num_retries": 0}
asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTION}]
answer = completion(model=f"openai/{MODEL}", messages=asked, **server)
chunks = completion(model=f"openai/{MODEL}", messages=asked, stream=True, **server)
chat = {
    "whole": answer.choices[0].message.content,
    "streamed": [piece for chunk in chunks if (piece := chunk.choices[0].delta.content)],
    "tokens": answer.usage.total_tokens,
}
response = responses(model=f"openai/{MODEL}", input=QUESTION, **server)
events = responses(model=f"openai/{MODEL}", input=QUESTION, stream=True, **server)
by_responses = {
    "whole": response.output[0].content[0].text,
    "streamed": [event.delta for event in events if event.type == "response.output_text.delta"],
    "tokens": response.usage.total_tokens,
}
tell(
    chat=chat,
    responses=by_responses,
    failure=failure(lambda: completion(model="openai/nobody", messages=asked, **server)),
)
