"""What is said of a value that does not fit: where, the value, and what would be right."""

from __future__ import annotations

import json
from typing import Any

import pytest

from coterie.core.commands import SubmitTask
from coterie.core.state import ClusterState
from coterie.node.admission import Admission, AdmissionLimits
from coterie.node.errors import ApiError
from coterie.node.schemas import FAULTS_SHOWN, faults, faults_by_text, schema_fault
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
