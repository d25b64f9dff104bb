"""What an answer has taken, and what that costs at the prices of the day."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import msgspec

from app.db.usage import Expense
from app.events import TokenUsage
from app.rag import memory
from app.services.draft import Draft
from app.settings import EmbeddingSettings, ModelPrice, ModelSettings

_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Prices:
    """Of a million tokens each, in one currency: by the model's name, and of the embedder. What is not known is not there."""

    of_models: Mapping[str, ModelPrice] = field(default_factory=dict[str, ModelPrice])
    embedding: float | None = None

    @classmethod
    def of(cls, model: ModelSettings, embedding: EmbeddingSettings) -> Self:
        of_models = dict(model.model_prices or {})
        if model.model_input_price is not None and model.model_output_price is not None:
            both = ModelPrice(input=model.model_input_price, output=model.model_output_price)
            of_models.setdefault(model.chat_model, both)
        return cls(of_models, embedding.embedding_price)

    def expense(self, model: str, usage: TokenUsage | None, embedded: str) -> Expense:
        """Of an answer by this model, for which a text was `embedded`, if any; without a usage the model was not asked."""
        read, written = (usage.input_tokens, usage.output_tokens) if usage is not None else (0, 0)
        embedded_tokens = memory.estimated_tokens(embedded) if embedded else 0
        return Expense(
            model=model,
            input_tokens=read,
            output_tokens=written,
            embedding_tokens=embedded_tokens,
            is_estimated=usage is not None and usage.estimated,
            cost=self._cost(model, read, written, embedded_tokens),
        )

    def _cost(self, model: str, read: int, written: int, embedded: int) -> float | None:
        price = self.of_models.get(model)
        if price is None:
            return None
        asked = read * price.input + written * price.output
        return round((asked + embedded * (self.embedding or 0.0)) / _MILLION, 9)


def priced(usage: TokenUsage | None, expense: Expense) -> TokenUsage | None:
    return msgspec.structs.replace(usage, cost=expense.cost) if usage is not None else None


def of_interrupted(prices: Prices, start: Mapping[str, Any], draft: Draft) -> Expense:
    """As far as its lines tell: what was said and the sources that it was said from, which is less than what the model has read."""
    model: dict[str, Any] | None = start.get("model")
    if model is None:
        return Expense()
    read = written = 0
    for step in _of_type(draft.steps, "query_rewrite"):
        tokens: dict[str, int] = step.get("payload", {}).get("tokens", {})
        read += tokens.get("input", 0)
        written += tokens.get("output", 0)
    if any(_of_type(draft.steps, "synthesis")):
        read += sum(memory.estimated_tokens(source["text"]) for source in draft.sources)
        written += max(len(draft.texts), sum(map(len, draft.texts)) // 4)
    usage = TokenUsage(input_tokens=read, output_tokens=written, total_tokens=read + written, estimated=True)
    return prices.expense(model["name"], usage, embedded_in(draft, ""))


def embedded_in(draft: Draft, question: str) -> str:
    """What was embedded for an answer to the question, as near as its steps tell; empty if nothing was."""
    if not any(step["status"] == "completed" for step in _of_type(draft.steps, "vectorization")):
        return ""
    rewritten = (step.get("payload", {}).get("question") for step in _of_type(draft.steps, "query_rewrite"))
    return next(rewritten, None) or question


def _of_type(steps: Mapping[str, dict[str, Any]], step_type: str) -> list[dict[str, Any]]:
    return [step for step in steps.values() if step["step_type"] == step_type]
