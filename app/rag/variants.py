"""The ways of searching that an evaluation compares."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal, get_args

from pydantic import TypeAdapter, ValidationError

from app.db.chunks import Hit
from app.errors import InvalidInput

Mode = Literal["words", "dense", "both"]


@dataclass(frozen=True, slots=True)
class Variant:
    """`depth` is how many of each half are fused, `top_k` how many passages are taken of what is found, None for all. `rerank`:
    the first of them, as many as the settings say, are put into the order of the reranker. `fold`: what says the same is taken once.

    Without an `embedding_model`, it is the one of the settings."""

    mode: Mode = "both"
    depth: int = 50
    top_k: int | None = None
    similarity_cutoff: float = -1.0
    rerank: bool | None = None
    fold: bool | None = None
    embedding_model: str | None = None

    def __str__(self) -> str:
        """As it is typed, without what is not set."""
        return ",".join(f"{key}={_typed(value)}" for key, value in asdict(self).items() if value is not None)


_READERS: Mapping[str, TypeAdapter[object]] = {
    "mode": TypeAdapter(Mode),
    "depth": TypeAdapter(int),
    "top_k": TypeAdapter(int),
    "similarity_cutoff": TypeAdapter(float),
    "rerank": TypeAdapter(bool),
    "fold": TypeAdapter(bool),
    "embedding_model": TypeAdapter(str),
}


def _typed(value: object) -> object:
    return str(value).lower() if isinstance(value, bool) else value


def parse(text: str, base: Variant) -> Variant:
    """`base` with what `text` changes, as in `mode=words,top_k=10`. Raises `InvalidInput`."""
    changes: dict[str, object] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, separator, value = (piece.strip() for piece in part.partition("="))
        if not separator or key not in _READERS:
            raise InvalidInput(f"{part!r} is no setting of a search: write {'=…, '.join(_READERS)}=….")
        try:
            changes[key] = _READERS[key].validate_strings(value)
        except ValidationError as error:
            modes = f" It is one of {', '.join(get_args(Mode))}." if key == "mode" else ""
            raise InvalidInput(f"{key} cannot be {value!r}.{modes}") from error
    variant = replace(base, **changes)
    if variant.depth < 1 or (variant.top_k is not None and variant.top_k < 1):
        raise InvalidInput("depth and top_k are at least 1.")
    return variant


def take(variant: Variant, hits: Sequence[Hit]) -> list[Hit]:
    """What the variant finds, best first, of all that both halves have found at its depth, in the order of both."""
    if variant.mode == "words":
        by_words = [hit for hit in hits if hit.words_score is not None]
        kept = sorted(by_words, key=lambda hit: hit.words_rank or 0)
    elif variant.mode == "dense":
        nearest = [hit for hit in hits if hit.dense_rank is not None]
        kept = sorted(nearest, key=lambda hit: hit.dense_rank or 0)
    else:
        kept = list(hits)
    return [hit for hit in kept if hit.similarity >= variant.similarity_cutoff][: variant.top_k]
