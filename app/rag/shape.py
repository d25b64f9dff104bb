"""The record that a conversation is to fill: from an assistant's `response_shape` to a JSON Schema, and what of a value breaks it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from jsonschema import Draft202012Validator, SchemaError, validators

from app.errors import InvalidInput

# What else than the word of a JSON Schema names a type.
_WORDS = {
    "str": "string",
    "text": "string",
    "float": "number",
    "decimal": "number",
    "int": "integer",
    "bool": "boolean",
    "list": "array",
}
_TYPES = {"string", "number", "integer", "boolean", "array"}
_ANYTHING = {"type": ["string", "number", "boolean", "null"]}
# Under which words of a schema there are others.
_SCHEMAS_BY_NAME = {"properties", "patternProperties", "dependentSchemas"}
_LISTS_OF_SCHEMAS = {"allOf", "anyOf", "oneOf", "prefixItems"}
_SCHEMAS = set(
    "items contains additionalProperties propertyNames unevaluatedItems unevaluatedProperties not if then else".split()
)
# Written out, a schema of this size is larger than any that a model could follow.
_MOST_NODES = 20_000


@dataclass(frozen=True, slots=True)
class Schema:
    """`is_strict`: every object names all its fields, which is what models want to be held to it."""

    schema: dict[str, Any]
    is_strict: bool


@dataclass(frozen=True, slots=True)
class Misfit:
    """`place` leads to it, by fields and by indices from 0. `why` is for a model, in the words of a library."""

    place: tuple[str | int, ...]
    why: str


def schema_of(shape: Mapping[str, Any]) -> Schema:
    """Of a JSON Schema, itself; of an example, that of all that looks like it, in which every value may be null.

    Raises `InvalidInput` for a JSON Schema that is none, or that refers to itself or elsewhere.
    """
    if not _is_schema(shape):
        return Schema(_of_object(shape), is_strict=_is_strict(shape))
    try:
        Draft202012Validator.check_schema(shape)
        written_out = _Writing(shape).out(shape, ())
    except (SchemaError, RecursionError) as error:
        raise InvalidInput("The assistant's response_shape is not a JSON Schema that can be used.") from error
    return Schema(written_out, is_strict=False)


def misfits(schema: Schema, value: Any) -> list[Misfit]:
    found = _Checker(schema.schema).iter_errors(value)
    return [Misfit(tuple(error.absolute_path), error.message) for error in found]


def _is_schema(shape: Mapping[str, Any]) -> bool:
    return "$schema" in shape or (shape.get("type") == "object" and isinstance(shape.get("properties"), dict))


def _of_object(shape: Mapping[str, Any]) -> dict[str, Any]:
    if not shape:
        return {"type": "object"}
    return {
        "type": "object",
        "properties": {name: _or_null(_of_example(value)) for name, value in shape.items()},
        "required": list(shape),
        "additionalProperties": False,
    }


def _of_example(value: Any) -> dict[str, Any]:
    match value:
        case str():
            return _of_word(value)
        case bool():
            return {"type": "boolean"}
        case int() | float():
            return {"type": "number"}
        case dict():
            return _of_object(cast("dict[str, Any]", value))
        case list():
            return {"type": "array", "items": _of_elements(cast("list[Any]", value))}
        case _:
            return _ANYTHING


def _of_word(text: str) -> dict[str, Any]:
    """The type that it names; all else is the description of a text."""
    word = text.strip().lower()
    kind = _WORDS.get(word, word)
    if kind not in _TYPES:
        return {"type": "string", "description": text}
    return {"type": kind, "items": {"type": "string"}} if kind == "array" else {"type": kind}


def _of_elements(examples: Sequence[Any]) -> dict[str, Any]:
    kinds: list[dict[str, Any]] = []
    for example in examples:
        if (kind := _of_example(example)) not in kinds:
            kinds.append(kind)
    if not kinds:
        return _ANYTHING
    return kinds[0] if len(kinds) == 1 else {"anyOf": kinds}


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    kind = schema["type"]
    return schema if isinstance(kind, list) else {**schema, "type": [kind, "null"]}


def _is_strict(example: Any) -> bool:
    if isinstance(example, dict):
        values = cast("dict[str, Any]", example)
        return bool(values) and all(map(_is_strict, values.values()))
    return not isinstance(example, list) or all(map(_is_strict, cast("list[Any]", example)))


class _Writing:
    """Puts what a schema refers to in the place of the reference, so that it can be checked in a time that its size tells."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._nodes = 0

    def out(self, schema: Any, within: tuple[str, ...]) -> Any:
        """`within` are the references on the way to it."""
        self._nodes += 1
        if self._nodes > _MOST_NODES:
            raise InvalidInput(
                "The assistant's response_shape is too large when its references are written out."
            )
        if not isinstance(schema, dict):
            return schema
        fields = cast("dict[str, Any]", schema)
        written = {
            name: self._part(name, value, within)
            for name, value in fields.items()
            if not name.startswith("$") and name != "definitions"
        }
        place = fields.get("$ref")
        if place is None:
            return written
        if place in within:
            raise InvalidInput("The assistant's response_shape refers to itself, which cannot be filled.")
        return {**self.out(self._at(place), (*within, place)), **written}

    def _part(self, name: str, value: Any, within: tuple[str, ...]) -> Any:
        if name in _SCHEMAS_BY_NAME:
            return {key: self.out(one, within) for key, one in value.items()}
        if name in _LISTS_OF_SCHEMAS:
            return [self.out(one, within) for one in value]
        return self.out(value, within) if name in _SCHEMAS else value

    def _at(self, place: str) -> Any:
        node: Any = self._root
        for step in place.removeprefix("#").split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            node = cast("dict[str, Any]", node).get(name) if isinstance(node, dict) else None
        if not place.startswith("#") or not isinstance(node, dict):
            raise InvalidInput("The assistant's response_shape refers to what is not in it.")
        return cast("dict[str, Any]", node)


def _unchecked(*_: Any) -> Iterator[Any]:
    """A pattern may take for ever, and whoever makes an assistant writes it: models are told it, and not held to it."""
    return iter(())


def _no_others(validator: Any, allowed: Any, instance: Any, schema: Any) -> Iterator[Any]:
    if "patternProperties" not in schema:
        yield from Draft202012Validator.VALIDATORS["additionalProperties"](
            validator, allowed, instance, schema
        )


_Checker: Any = validators.extend(  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]  # untyped
    Draft202012Validator,
    {
        **dict.fromkeys(("pattern", "patternProperties", "unevaluatedProperties", "$dynamicRef"), _unchecked),
        "additionalProperties": _no_others,
    },
)
