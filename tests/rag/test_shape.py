from typing import Any

import pytest
from jsonschema import Draft202012Validator

from app.errors import InvalidInput
from app.rag.shape import Schema, misfits, schema_of

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"definitions": {"$ref": "#/$defs/city"}, "code": {"type": "string", "pattern": "^(a+)+$"}},
    "required": ["definitions"],
    "additionalProperties": False,
    "$defs": {"city": {"type": "object", "properties": {"name": {"type": "string"}}}},
}


def places(schema: Schema, value: Any) -> list[tuple[str | int, ...]]:
    return [misfit.place for misfit in misfits(schema, value)]


def test_an_example_becomes_a_schema_that_models_can_be_held_to():
    schema = schema_of(
        {
            "verdict": "guilty or not",
            "years": "integer",
            "paid": True,
            "names": ["string"],
            "court": {"city": "str"},
        }
    )
    assert schema.is_strict
    assert schema.schema == {
        "type": "object",
        "properties": {
            "verdict": {"type": ["string", "null"], "description": "guilty or not"},
            "years": {"type": ["integer", "null"]},
            "paid": {"type": ["boolean", "null"]},
            "names": {"type": ["array", "null"], "items": {"type": "string"}},
            "court": {
                "type": ["object", "null"],
                "properties": {"city": {"type": ["string", "null"]}},
                "required": ["city"],
                "additionalProperties": False,
            },
        },
        "required": ["verdict", "years", "paid", "names", "court"],
        "additionalProperties": False,
    }


@pytest.mark.parametrize(
    ("example", "fitting", "broken"),
    [
        ("how many", "three", 3),
        ("number", 2.5, "2.5"),
        (3, 2.5, "three"),
        (False, True, 1),
        ([1, "a"], ["b", 2], [True]),
        ([], [1, "a", None], "a"),
        (None, "anything", {}),
        ({}, {"any": "thing"}, []),
        ([{"name": "text"}], [{"name": "Ada"}], [{"name": "Ada", "age": 3}]),
    ],
)
def test_what_looks_like_the_example_fits_and_so_does_null(example: Any, fitting: Any, broken: Any):
    schema = schema_of({"field": example})
    Draft202012Validator.check_schema(schema.schema)
    assert places(schema, {"field": fitting}) == []
    assert places(schema, {"field": None}) == []
    assert places(schema, {"field": broken}) != []
    assert places(schema, {}) == [()]


@pytest.mark.parametrize("free", [{}, [{}], {"more": {}}])
def test_what_may_hold_anything_is_not_strict(free: Any):
    assert not schema_of({"field": free}).is_strict


def test_a_json_schema_is_taken_as_it_is_and_its_references_are_written_out():
    schema = schema_of(SCHEMA)
    assert not schema.is_strict
    assert schema.schema["properties"]["definitions"] == SCHEMA["$defs"]["city"]
    assert places(schema, {"definitions": {"name": "Vienna"}}) == []
    assert places(schema, {"definitions": {"name": 1}}) == [("definitions", "name")]
    assert places(schema, {"definitions": {}, "more": 1}) == [()]


def test_a_pattern_is_told_to_the_model_and_not_checked():
    schema = schema_of(SCHEMA)
    assert schema.schema["properties"]["code"]["pattern"] == "^(a+)+$"
    assert places(schema, {"definitions": {}, "code": "a" * 50 + "b"}) == []
    by_pattern = schema_of({**SCHEMA, "patternProperties": {"^(x+)+$": {"type": "string"}}})
    assert places(by_pattern, {"definitions": {}, "x" * 50 + "y": 1}) == []


def doubling(depth: int) -> dict[str, Any]:
    """Small, and written out of 2 ** depth parts."""
    parts = {
        f"d{level}": {"allOf": [{"$ref": f"#/$defs/d{level + 1}"}] * 2} if level < depth else {}
        for level in range(depth + 1)
    }
    return {**SCHEMA, "$ref": "#/$defs/d0", "$defs": {**SCHEMA["$defs"], **parts}}


@pytest.mark.parametrize(
    "shape",
    [
        {"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "nonsense"},
        {"type": "object", "properties": {"child": {"$ref": "#"}}},
        {"type": "object", "properties": {"child": {"$ref": "http://127.0.0.1:9/schema"}}},
        {"type": "object", "properties": {"child": {"$ref": "#/nowhere"}}},
        doubling(20),
    ],
)
def test_a_json_schema_that_cannot_be_followed_is_refused(shape: dict[str, Any]):
    with pytest.raises(InvalidInput):
        schema_of(shape)
