"""The models of `llm` for servers that speak as OpenAI's do."""

from llm.default_plugins.openai_models import Chat
from told import BASE_URL, KEY, MODEL, QUESTION, failure, tell


def model(name: str = MODEL) -> Chat:
    made = Chat(name, model_name=name, api_base=BASE_URL)
    made.key = KEY
    return made


whole = model().prompt(QUESTION, system="Be brief.", stream=False)
text = whole.text()
chat = {
    "whole": text,
    "streamed": [piece for piece in model().prompt(QUESTION) if piece],
    "tokens": whole.usage().input + whole.usage().output,
}
tell(chat=chat, failure=failure(lambda: model("nobody").prompt(QUESTION, stream=False).text()))
