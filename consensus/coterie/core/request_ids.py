"""Request ids: a call that is made again, because nobody knows what became of it, changes nothing more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from coterie.core.commands import Accepted, Outcome, Rejected
from coterie.core.nouns import Request, TaskId
from coterie.core.state import ClusterState, Moment

CONTROL = "\0"  # how the keys begin of what is done to tasks
CONTROLS_SHARE = 4  # of as many as there may be submits, a quarter more
Rule = Callable[[ClusterState, Any, Moment], Outcome]


def answered(state: ClusterState, key: str, digest: bytes) -> Outcome | None:
    """What the first request with that key was told; None: this is the first."""
    known = state.requests.get(key)
    if known is None:
        return None
    if known.digest != digest:
        request_id = key.partition("/")[2]
        return Rejected("REQUEST_ID_REUSED", f"request_id {request_id} was used with another body")
    return Accepted(known.task_id, duplicate=True)


def remember(state: ClusterState, key: str, digest: bytes, task_id: TaskId, moment: Moment) -> None:
    """Keep the answer as long as the policy says."""
    state.requests[key] = Request(key, task_id, digest, moment.at_ms)
    if key.startswith(CONTROL):
        state.indexes.controls[key] = None
    forget_old(state, moment)


def forget_old(state: ClusterState, moment: Moment) -> None:
    """Drop what is older than the policy says, or too many. What is done to tasks has a share of its own
    beside that of submits: a client that pauses and resumes all day makes nobody's submit be forgotten."""
    policy, controls = state.meta.policy, state.indexes.controls
    while len(controls) > max(1, policy.requests_kept_max // CONTROLS_SHARE):
        key, _ = controls.popitem(last=False)
        del state.requests[key]
    while state.requests:
        oldest = next(iter(state.requests.values()))
        expired = oldest.at_ms + policy.requests_kept_ms < moment.at_ms
        if not expired and len(state.requests) - len(controls) <= policy.requests_kept_max:
            return
        del state.requests[oldest.key]
        controls.pop(oldest.key, None)


def key_of_control(task_id: TaskId, request_id: str) -> str:
    """Of what is done to a task that exists. The task may be gone when the request comes again, and
    with it the tenant it belonged to; no tenant's name has a zero byte in it."""
    return f"{CONTROL}{task_id}/{request_id}"


def once(rule: Rule) -> Rule:
    """`rule`, for a command that may carry a request id: repeated, it is told what it was told
    before, whatever became of the task. What was refused may be asked for again."""

    def told_once(state: ClusterState, command: Any, moment: Moment) -> Outcome:
        if not command.request_id:
            return rule(state, command, moment)
        key = key_of_control(command.task_id, command.request_id)
        known = answered(state, key, command.digest)
        if known is not None:
            return known
        outcome = rule(state, command, moment)
        if isinstance(outcome, Accepted):
            remember(state, key, command.digest, command.task_id, moment)
        return outcome

    return told_once
