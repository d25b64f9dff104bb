"""JSON as this project writes it: UTF-8, on one line, and never failing over text that Unicode cannot encode."""

from typing import Any

import msgspec

_encoder = msgspec.json.Encoder()


def encode(value: Any) -> bytes:
    try:
        return _encoder.encode(value)
    except UnicodeEncodeError:
        return _encoder.encode(_without_surrogates(value))


def _without_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, dict):
        return {_without_surrogates(key): _without_surrogates(item) for key, item in value.items()}  # pyright: ignore[reportUnknownVariableType]  # any JSON
    if isinstance(value, list | tuple):
        return [_without_surrogates(item) for item in value]  # pyright: ignore[reportUnknownVariableType]  # any JSON
    return value
