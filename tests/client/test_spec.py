"""What may be submitted, and that every mistake is named at once before any call."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from coterie.client import InvalidRequest, TaskSpec
from coterie.client.order import ordered
from coterie.client.spec import prepare
from coterie.v1 import tasks_pb2


def problems(entry: Mapping[str, Any]) -> dict[str, str]:
    with pytest.raises(InvalidRequest) as refused:
        prepare(TaskSpec.of(entry), "default")
    assert refused.value.code == "INVALID_ARGUMENT" and isinstance(refused.value, ValueError)
    return dict(refused.value.violations)


def task_of(**entry: Any) -> tasks_pb2.Task:
    return prepare(TaskSpec.of({"type": "echo", **entry}), "default").request.task


def test_defaults_leave_everything_to_the_cluster() -> None:
    request = prepare(TaskSpec(type="echo"), "acme").request
    assert request.parent == "tenants/acme" and len(request.request_id) == 32
    expected = tasks_pb2.Task(type="echo", priority=tasks_pb2.NORMAL)
    expected.payload.inline = b"null"
    assert request.task == expected


def test_request_ids_are_minted_anew() -> None:
    spec = TaskSpec(type="echo")
    assert prepare(spec, "t").request.request_id != prepare(spec, "t").request.request_id
    assert prepare(TaskSpec(type="echo", request_id="mine"), "t").request.request_id == "mine"


@pytest.mark.parametrize("value", [None, 0, "ü", [1, {"a": None}], {"k": [True, 1.5]}])
def test_json_values_travel_as_json(value: Any) -> None:
    assert json.loads(task_of(payload=value).payload.inline) == value


@pytest.mark.parametrize("value", [b"\x00\xff", bytearray(b"ab"), memoryview(b"ab")])
def test_bytes_travel_as_they_are(value: Any) -> None:
    assert task_of(payload=value).payload.inline == bytes(value)


def test_all_mistakes_are_named_at_once() -> None:
    found = problems(
        {
            "type": "",
            "payload": {1, 2},
            "priority": "urgent",
            "timeout": "-1s",
            "deadline": 0,
            "start_delay": "soon",
            "max_attempts": 0,
            "labels": {"a": 1},
            "constraints": {"requireGPU": "yes", "zone": "", "colour": "red", "labels": 3},
            "request_id": "",
            "task_id": 5,
        }
    )
    assert set(found) == {
        *("type", "payload", "priority", "timeout", "deadline", "start_delay", "max_attempts", "labels.a"),
        *("constraints.requireGPU", "constraints.zone", "constraints.colour", "constraints.labels"),
        *("request_id", "task_id"),
    }
    assert "'urgent' is not one of low, normal, high, critical" in found["priority"]


@pytest.mark.parametrize(
    ("entry", "field", "text"),
    [
        ({}, "type", "is missing"),
        ({"type": "a", "prioritty": "low"}, "prioritty", "did you mean 'priority'?"),
        ({"type": "a", "zzz": 1}, "zzz", "known: type, payload"),
        ({"type": "a", "constraints": {"requir_gpu": True}}, "constraints.requir_gpu", "require_gpu"),
        ({"type": "a", "payload": float("nan")}, "payload", "not a JSON value"),
        ({"type": "a", "constraints": ["gpu"]}, "constraints", "is not a dict"),
        (
            {"type": "a", "target_node": "n1", "constraints": {"targetNode": "n2"}},
            "constraints.targetNode",
            "n1",
        ),
    ],
)
def test_a_mistake_names_the_remedy(entry: dict[str, Any], field: str, text: str) -> None:
    assert text in problems(entry)[field]


def test_an_entry_must_be_a_mapping() -> None:
    with pytest.raises(InvalidRequest, match="not str"):
        TaskSpec.of("echo")  # type: ignore[arg-type]


@pytest.mark.parametrize("key", ["require_gpu", "requireGpu", "requireGPU"])
def test_camel_and_snake_are_one_key(key: str) -> None:
    assert task_of(constraints={key: True}).constraints.require_gpu


def test_every_constraint_arrives() -> None:
    given = {"zones": ["a"], "zone": "b", "preferZone": "a", "labels": {"k": "v"}, "target_node": "n1"}
    constraints = task_of(constraints=given, target_node="n1").constraints
    assert list(constraints.zones) == ["a", "b"] and constraints.prefer_zone == "a"
    assert constraints.target_node == "n1" and dict(constraints.labels) == {"k": "v"}


def test_deep_nesting_is_an_error_and_no_crash() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    assert "JSON" in problems({"type": "a", "payload": deep})["payload"]


def test_a_task_may_be_a_dict_as_the_published_examples_write_it() -> None:
    task = {"id": "reduce-0", "type": "reduce", "payload": [1], "priority": "high", "maxAttempts": 2}
    spec = TaskSpec.of({**task, "requireNode": "coordinator", "constraints": {"zones": ["a"]}})
    assert (spec.task_id, spec.max_attempts, spec.priority) == ("reduce-0", 2, "high")
    assert spec.constraints == {"zones": ["a"], "require_node": "coordinator"}
    with pytest.raises(InvalidRequest, match=r"task_id: is another spelling of task_id"):
        TaskSpec.of({"type": "x", "id": "a", "task_id": "b"})


def test_words_beside_a_dict_come_first() -> None:
    task = {"type": "map", "payload": 1, "priority": "low"}
    assert ordered(task, None, {}) == TaskSpec(type="map", payload=1, priority="low")
    assert ordered("n1", task, {"priority": "high"}) == TaskSpec(
        type="map", payload=1, priority="high", target_node="n1"
    )
    assert ordered(None, TaskSpec(type="map", key="k"), {"payload": 2}).key == "k"
    with pytest.raises(InvalidRequest, match="given twice"):
        ordered(task, task, {})
    with pytest.raises(InvalidRequest, match="type: is missing"):
        ordered("n1", None, {"payload": 1})
    with pytest.raises(InvalidRequest, match="pririty: unknown key; did you mean 'priority'"):
        ordered(None, {"type": "map", "pririty": "low"}, {})
