"""What is said of a value that does not fit: where, the value, and what would be right."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from coterie.core.commands import SubmitTask
from coterie.core.state import ClusterState
from coterie.node.admission import Admission, AdmissionLimits
from coterie.node.errors import ApiError
from coterie.node.schemas import (
    FAULTS_SHOWN,
    HERE_BYTES_MAX,
    PLACE_CHARS_MAX,
    Faults,
    faults_by_text,
    faults_here,
    schema_fault,
)
from coterie.node.skillhost.nouns import SkillInfo
from coterie.node.skillset import with_defaults
from coterie.v1 import tasks_pb2

SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["rows"],
    "additionalProperties": False,
    "properties": {
        "rows": {"type": "array", "items": {"type": "integer", "maximum": 9}, "description": "what to add"},
        "how": {"enum": ["sum", "mean"]},
        "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
    },
}
LOCAL = {"add": SkillInfo("add", "1", "", 0, "none", input=json.dumps(SCHEMA))}


def faults(schema: Any, content: bytes) -> Faults:
    return faults_by_text(json.dumps(schema), content)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"rows": ["x"]}, ('.rows[0]', '"x" is not an integer; send an integer')),
        ({}, ("", "'rows' is missing; add an array (what to add)")),
        ({"rows": [], "row": 1}, ("", "'row' is not a field; did you mean 'rows'?")),
        ({"rows": [], "zzz": 1}, ("", "'zzz' is not a field; known: rows, how, note")),
        ({"rows": [], "how": "max"}, (".how", '"max" is none of ["sum", "mean"]; send one of them')),
        ({"rows": [], "note": 1}, (".note", "1 is not a string or null; send a string or null")),
        ({"rows": [12]}, (".rows[0]", "12 is greater than the maximum of 9")),
        ([1], ("", "[1] is not an object; send an object")),
    ],
)  # fmt: skip
def test_a_fault_says_where_what_and_how(value: Any, said: tuple[str, str]) -> None:
    assert faults(SCHEMA, json.dumps(value).encode()) == [said]


def test_all_that_is_missing_is_one_fault_of_few_words() -> None:
    schema = {"required": ["a", "b"], "properties": {"a": {"type": "integer"}}}
    missing = "'a' is missing; add an integer; 'b' is missing; add it"
    assert faults(schema, b"{}") == [("", missing)] and faults(schema, b"[]") == []
    ((_, said),) = faults({"required": [f"n{i}" for i in range(500)]}, b"{}")
    assert said.endswith("add it; and 480 more") and len(said) < 1_000
    deep = faults({"additionalProperties": {"type": "null"}}, json.dumps({"x" * 9_000: 1}).encode())
    assert len(deep[0][0]) == PLACE_CHARS_MAX


def test_all_faults_are_told_within_reason() -> None:
    many = faults(SCHEMA, json.dumps({"rows": ["x"] * 100, "how": 1}).encode())
    assert len(many) == FAULTS_SHOWN
    assert faults(SCHEMA, b"{")[0][1].startswith("not JSON")
    assert faults(SCHEMA, b"[" * 100_000)[0][1].startswith("not JSON")
    assert faults(SCHEMA, b'{"rows": [1]}') == []


def test_what_is_not_checked_of_a_schema_on_disk_is_left_to_the_skill() -> None:
    slow = {"type": "object", "properties": {"pattern": {"type": "string", "pattern": "^(a+)+$"}}}
    assert "pattern" in schema_fault(slow) and not schema_fault({"properties": {"pattern": {}}})
    assert faults_by_text(json.dumps(slow), json.dumps({"pattern": "a" * 50 + "!"}).encode()) == []
    assert faults_by_text(json.dumps(slow), b'{"pattern": 1}') == [
        (".pattern", "1 is not a string; send a string")
    ]
    assert faults_by_text('{"$ref": "https://example.org/x"}', b"1") == []
    assert faults_by_text('{"type": "nothing"}', b"1") == []
    assert faults_by_text("", b"{") == []


def doubling(levels: int) -> Any:
    """A schema of a few hundred bytes that is 2 ** levels subschemas."""
    parts: Any = {f"x{i}": {"allOf": [{"$ref": f"#/$defs/x{i + 1}"}] * 2} for i in range(levels)}
    return {"$ref": "#/$defs/x0", "$defs": {**parts, f"x{levels}": {}}}


def loop(first: str, then: str) -> Any:
    """`x` and `y` apply each other to the same value, and `y` applies `x` to an inner value too."""
    ways: Any = {"properties": {"p": {"$ref": "#/$defs/x"}}, "allOf": [{"$ref": "#/$defs/x"}]}
    y = {first: ways[first], then: ways[then]}
    return {"$ref": "#/$defs/y", "$defs": {"y": y, "x": {"allOf": [{"$ref": "#/$defs/y"}]}}}


NESTED: Any = {}
for _ in range(600):
    NESTED = {"not": NESTED}
TREE: Any = {
    "$ref": "#/$defs/node",
    "$defs": {"node": {"properties": {"kids": {"type": "array", "items": {"$ref": "#/$defs/node"}}}}},
}


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        (doubling(4), ""),
        (doubling(14), "more than 10000 subschemas"),
        (doubling(40), "more than 10000 subschemas"),
        (doubling(300), "each leads to the next"),
        (TREE, ""),
        ({"$ref": "#"}, "without an end"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}]}}}, "without an end"),
        ({"not": {"$ref": "#/$defs/a"}, "$defs": {"a": {"if": {"$ref": "#"}}}}, "without an end"),
        ({"$ref": "#/$defs/b", "$defs": {"a": {}}}, "'#/$defs/b', which is not in it"),
        ({"$ref": "https://example.org/x"}, "another document"),
        ({"$dynamicRef": "#x"}, "$dynamicRef"),
        (loop("properties", "allOf"), "without an end"),
        (loop("allOf", "properties"), "without an end"),
        ({"$ref": "#/const", "const": {"pattern": "(a+)+$"}}, "'#/const', where no schema stands"),
        ({"$ref": "#/title", "title": "x"}, "where no schema stands"),
        ({"$ref": "#/x", "x": {"properties": [1]}}, "put it under $defs"),
        ({"$ref": "#/x/0", "x": [{"type": 5}]}, "where no schema stands"),
        ({"$ref": "#/properties/a/items", "properties": {"a": {"items": {}}}}, ""),
        ({"$ref": "#/definitions/a", "definitions": {"a": True}}, ""),
        ({"dependentRequired": {"pattern": ["$ref"], "$ref": []}}, ""),
        ({"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "https://a.b/c", **TREE}, ""),
        (NESTED, "nested deeper than 50 levels"),
    ],
)  # fmt: skip
def test_schemas_whose_references_have_no_bounded_cost_are_refused(schema: Any, said: str) -> None:
    fault = schema_fault(schema)
    assert said in fault and bool(said) == bool(fault)
    assert faults(schema, b'{"kids": []}') == [], "and of a file on disk it is left to the skill"


def test_a_tree_is_checked_to_its_leaves() -> None:
    assert faults(TREE, b'{"kids": [{"kids": [{"kids": 1}]}]}')[0][0] == ".kids[0].kids[0].kids"
    deep = b'{"kids": [' * 20 + b"]}" * 20
    assert faults(TREE, deep) == [] and faults_here(json.dumps(TREE), deep) is None


@pytest.mark.parametrize(
    ("value", "equal"),
    [
        ([1, 1.0], True), ([1, True], False), ([0, False], False), (["1", 1], False), ([[], {}], False),
        ([None] * 2, True),
        ([{"a": 1, "b": [2]}, {"b": [2.0], "a": 1}], True), ([{"a": 1}, {"a": 2}], False),
    ],
)  # fmt: skip
def test_items_are_told_apart_as_json_does(value: Any, equal: bool) -> None:
    assert bool(faults({"uniqueItems": True}, json.dumps(value).encode())) == equal
    assert faults({"uniqueItems": False}, json.dumps(value).encode()) == []


def test_numbers_that_cannot_be_checked_are_faults() -> None:
    assert "cannot be checked" in faults({"multipleOf": 0.1}, b"1e400")[0][1]


def often(count: int, schema: Any) -> Any:
    """So often the same of the same value."""
    return {"allOf": [{"$ref": "#/$defs/it"}] * count, "$defs": {"it": schema}}


WIDE: Any = [[0] * 200]
MANY = [f"b{i}" for i in range(50)]
STEEP: Any = {"properties": {"a": {"$ref": "#"}}}  # few steps, each deep in the stack
for _ in range(14):
    STEEP = {"allOf": [STEEP]}


@pytest.fixture
def stack_of_a_node() -> Iterator[None]:
    """What other tests run under may have left it deeper."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(1_000)
    yield
    sys.setrecursionlimit(before)


@pytest.mark.parametrize(
    ("schema", "content"),
    [
        ({}, b" " * (HERE_BYTES_MAX + 1)),
        ({"items": {"type": "number"}}, json.dumps([1] * 10_000).encode()),
        (doubling(11), b"1"),
        ({"items": {"allOf": [{"$ref": "#"}] * 2}}, b"[" * 40 + b"]" * 40),
        ({"anyOf": [{"type": "string"}] * 500}, json.dumps([[1] * 2_000]).encode()),
        (often(200, {"const": WIDE}), json.dumps(WIDE).encode()),
        (often(200, {"enum": [[1], WIDE]}), json.dumps(WIDE).encode()),
        (often(200, {"uniqueItems": True}), json.dumps(WIDE).encode()),
        (often(200, {"uniqueItems": True}), json.dumps(["x" * 5_000]).encode()),
        (often(200, {"anyOf": [{"dependentRequired": {"a": MANY}}, {}]}), b'{"a": 1}'),
        (often(200, {"unevaluatedProperties": True}), b'{"a": 1}'),
        (STEEP, b'{"a":' * 28 + b"{}" + b"}" * 28),
    ],
)
def test_what_takes_many_steps_is_not_checked_on_a_loop(
    schema: Any, content: bytes, stack_of_a_node: None
) -> None:
    assert faults_here(json.dumps(schema), content) is None
    assert faults_here("", content) == []


def test_what_is_cheap_is_checked_at_once() -> None:
    rows = json.dumps({"rows": [1] * 500 + ["x"]}).encode()
    assert faults_here(json.dumps(SCHEMA), rows) == faults(SCHEMA, rows) != []


def test_fields_that_nobody_knows_are_told_within_reason() -> None:
    schema = {"additionalProperties": False, "properties": {f"known{i}": {} for i in range(1_000)}}
    ((_, said),) = faults(schema, json.dumps({f"new{i}" * 50: 1 for i in range(5_000)}).encode())
    assert said.endswith("and 4980 more") and len(said) < 10_000


def submit(payload: bytes, kind: str = "add") -> SubmitTask:
    request = tasks_pb2.SubmitTaskRequest(request_id="r")
    request.task.type = kind
    request.task.payload.inline = payload
    command = Admission(AdmissionLimits()).command(request, "t", {"add", "free"}, ())
    return with_defaults(command, request.task, ClusterState(), LOCAL)


def test_a_payload_that_does_not_fit_is_refused_before_anything_is_proposed() -> None:
    with pytest.raises(ApiError) as refused:
        submit(b'{"rows": ["many"]}')
    assert refused.value.reason == "BAD_INPUT"
    (violation,) = refused.value.violations
    assert violation.field == "task.payload.rows[0]" and '"many"' in violation.description
    assert submit(b'{"rows": [1]}').type == "add"
    assert submit(b"anything", "free").type == "free"
    assert submit(json.dumps({"rows": ["x"] * 20_000}).encode()).type == "add", "checked where it runs"
