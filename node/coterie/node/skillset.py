"""The skills that tasks may name: those on the nodes' disks, and those that were published and are live."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, ValidationError
from referencing import Registry

from coterie.core.commands import SubmitTask
from coterie.core.nouns import RetryPolicy
from coterie.core.skillbook import SkillEntry, choose
from coterie.core.state import ClusterState
from coterie.node.errors import Violation, invalid
from coterie.skills.described import Described, from_json
from coterie.v1 import tasks_pb2

FAULTS_SHOWN = 20
# Their cost has no bound that follows from the size of the data, and they are looked at in the node.
UNBOUNDED = frozenset({"pattern", "patternProperties"})


def known_skills(state: ClusterState) -> set[str]:
    """By name."""
    names = {skill.name for node in state.nodes.values() for skill in node.skills}
    return names | {name for name, entry in state.skillbook.items() if entry.live}


def with_defaults(command: SubmitTask, task: tasks_pb2.Task, state: ClusterState) -> SubmitTask:
    """The command with what its skill says where the request says nothing. Raises ApiError when the payload
    is not what the skill takes."""
    entry = state.skillbook.get(command.type)
    if entry is None:
        return command
    said = described_for(entry, command.task_id, command.constraints.skill_version)
    if command.payload.inline and said.input is not None:
        wrong = faults(said.input, command.payload.inline)
        if wrong:
            raise invalid([Violation(f"task.payload{at}", text) for at, text in wrong])
    if not task.attempt_timeout_ms:
        timeout_ms = entry.policy.timeout_ms or said.timeout_ms or command.attempt_timeout_ms
        command = replace(command, attempt_timeout_ms=timeout_ms)
    if not task.max_attempts and not task.retry.max_attempts:
        command = replace(command, retry=_retry(command.retry, entry, said))
    return command


def described_for(entry: SkillEntry, task_id: str, wanted: str) -> Described:
    """What the SKILL.md says of the revision that such a task gets."""
    chosen = choose(entry, task_id, wanted)
    return from_json(chosen.manifest) if chosen is not None else Described()


def _retry(default: RetryPolicy, entry: SkillEntry, said: Described) -> RetryPolicy:
    own = entry.policy.retry
    if own is not None:
        return replace(
            default,
            attempts_max=own.attempts_max or default.attempts_max,
            backoff_initial_ms=own.backoff_initial_ms or default.backoff_initial_ms,
            backoff_max_ms=own.backoff_max_ms or default.backoff_max_ms,
        )
    return replace(
        default,
        attempts_max=said.attempts_max or default.attempts_max,
        backoff_initial_ms=said.backoff_initial_ms or default.backoff_initial_ms,
        backoff_max_ms=said.backoff_max_ms or default.backoff_max_ms,
    )


def schema_fault(schema: dict[str, Any]) -> str:
    """Why it is no JSON schema that we check; empty: it is one."""
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        return f"is no JSON schema: {error.message}"
    if used := UNBOUNDED & _keys(schema):
        return f"uses {', '.join(sorted(used))}, which only the skill itself can check: take it out"
    if any("$ref" in key and not str(value).startswith("#") for key, value in _items(schema)):
        return "refers to another document; put its parts under $defs"
    return ""


def faults(schema: dict[str, Any], content: bytes) -> list[tuple[str, str]]:
    """Where (a path such as `.items[2]`) and what is wrong with JSON text; nothing: it fits."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        return [("", f"not JSON ({error})")]
    validator = Draft202012Validator(schema, registry=Registry())
    found: list[tuple[str, str]] = []
    for fault in validator.iter_errors(value):
        found.append((_path(fault), fault.message[:300]))
        if len(found) >= FAULTS_SHOWN:
            break
    return sorted(found)


def _path(error: ValidationError) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path)


def _items(value: object) -> list[tuple[str, object]]:
    """All keys of all maps inside, with what they hold."""
    found: list[tuple[str, object]] = []
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, dict):
            found += [(str(key), inner) for key, inner in one.items()]
            left += one.values()
        elif isinstance(one, list):
            left += one
    return found


def _keys(value: object) -> set[str]:
    return {key for key, _ in _items(value)}
