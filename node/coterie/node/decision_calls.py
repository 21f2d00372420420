"""What a running skill may ask about its effects, approvals and events."""

from __future__ import annotations

from typing import Any

from coterie.core.commands import (
    Accepted,
    AskApproval,
    BeginStep,
    RecordStep,
    Rejected,
    SuspendTask,
    WithdrawStep,
)
from coterie.core.decisions.nouns import Approval, OnUnknown, Resolution, Verdict, approval_id
from coterie.core.nouns import Data, WaitReason
from coterie.node.errors import from_rejection
from coterie.node.skill_calls import STEP_FAULTS, Handlers, Run, refused
from coterie.node.skillhost.nouns import Suspended
from coterie.skills import Fenced
from coterie.skills.decisions import CALL_BYTES_MAX, EVENT_BYTES_MAX, KEY_CHARS_MAX
from coterie.skills.limits import KIB
from coterie.skills.replay import STEP_KEY_CHARS_MAX, step_names

TIMEOUT_MS_MAX = 366 * 24 * 3_600_000
POLICIES = {"retry": OnUnknown.RETRY, "ask": OnUnknown.ASK, "fail": OnUnknown.FAIL}
TEXT_BYTES_MAX = 64 * KIB


async def begin(run: Run, args: Any) -> dict[str, Any]:
    """Commit the intent of an effect; or say what became of an earlier one. Waits where a person decides."""
    key, target = _text(args, "key", STEP_KEY_CHARS_MAX), _text(args, "effect_key", KEY_CHARS_MAX)
    policy = POLICIES.get(_text(args, "on_unknown", 8))
    if policy is None:
        raise refused("BAD_ARGUMENTS", f"on_unknown: {args['on_unknown']!r} is none of {', '.join(POLICIES)}")
    while True:
        outcome = await run.commit_own(BeginStep(run.task_id, run.attempt, key, target, policy))
        if isinstance(outcome, Accepted):
            return {"attempt": run.attempt, "tries": _tries(run, key)}
        if outcome.code == "STEP_RECORDED":
            return {"result": await _recorded(run, key)}
        if outcome.code != "IN_DOUBT":
            raise _refusal(outcome)
        if policy is OnUnknown.FAIL or _decision(run, key) == Resolution.FAILED:
            return {"in_doubt": outcome.reason}
        await _suspend(run, WaitReason.IN_DOUBT, key)


async def withdraw(run: Run, args: Any) -> None:
    """The effect has certainly not happened."""
    key = _text(args, "key", STEP_KEY_CHARS_MAX)
    await run.commit_own(WithdrawStep(run.task_id, run.attempt, key))


async def ask(run: Run, args: Any) -> dict[str, Any]:
    """What people decided about a call. Waits until they have, or until its time is over."""
    command = _question(run, args)
    while True:
        outcome = await run.commit_own(command)
        if isinstance(outcome, Rejected):
            raise _refusal(outcome)
        approval = _approval(run, command.approval_id)
        if approval.verdict is not Verdict.PENDING:
            return _verdict(approval)
        left_ms = 0
        if approval.expires_at_ms:
            left_ms = max(1, approval.expires_at_ms - run.state.meta.clock_ms)
        await _suspend(run, WaitReason.APPROVAL, command.approval_id, left_ms)


def beside(args: Any) -> tuple[str, ...]:
    """What the run asked for before, without a result. Raises CallRefused."""
    try:
        return step_names(args.get("beside", ()))
    except ValueError as error:
        raise refused("BAD_ARGUMENTS", str(error)) from error


async def emit(run: Run, args: Any) -> None:
    """Record an event for those who watch the task."""
    key, text = _text(args, "key", STEP_KEY_CHARS_MAX), _text(args, "text", EVENT_BYTES_MAX)
    data = Data(text.encode())
    recorded = RecordStep(run.task_id, run.attempt, key, data, beside(args), told=True)
    outcome = await run.commit_own(recorded)
    if isinstance(outcome, Rejected):
        raise _refusal(outcome)


HANDLERS: Handlers = {
    "effects.begin": begin,
    "effects.withdraw": withdraw,
    "approvals.ask": ask,
    "events.emit": emit,
}


async def _suspend(run: Run, reason: WaitReason, name: str, timeout_ms: int = 0) -> None:
    """Ends the attempt; returns where what it would wait for is there already."""
    command = SuspendTask(run.task_id, run.attempt, reason, name, timeout_ms=timeout_ms)
    outcome = await run.commit_own(command)
    if isinstance(outcome, Accepted):
        raise Suspended
    if outcome.code in STEP_FAULTS:
        raise _refusal(outcome)
    if outcome.code != "WAIT_OVER":
        raise Fenced(outcome.reason)


def _question(run: Run, args: Any) -> AskApproval:
    place, needed = _number(args, "place", 10_000), _number(args, "needed", 10_000)
    return AskApproval(
        task_id=run.task_id,
        attempt=run.attempt,
        approval_id=approval_id(run.task_id, place),
        question=_text(args, "question", TEXT_BYTES_MAX),
        call_sha256=_text(args, "call_sha256", 64),
        call=Data(_text(args, "call", CALL_BYTES_MAX).encode()),
        needed=needed,
        timeout_ms=_number(args, "timeout_ms", TIMEOUT_MS_MAX),
    )


def _approval(run: Run, name: str) -> Approval:
    held = run.state.approvals.get(run.task_id)
    found = held.find(name) if held is not None else None
    if found is None:
        raise Fenced("the task has ended")
    return found


def _verdict(approval: Approval) -> dict[str, Any]:
    deciding = [vote for vote in approval.votes if vote.approve is (approval.verdict is Verdict.APPROVED)]
    return {
        "verdict": approval.verdict.name,
        "by": [vote.principal for vote in deciding],
        "comments": [vote.comment for vote in deciding],
    }


def _tries(run: Run, key: str) -> int:
    held = run.state.open_steps.get(run.task_id)
    step = held.find(key) if held is not None else None
    return step.tries if step is not None else 1


def _decision(run: Run, key: str) -> int:
    held = run.state.open_steps.get(run.task_id)
    step = held.find(key) if held is not None else None
    return step.decision if step is not None else 0


async def _recorded(run: Run, key: str) -> str:
    log = run.state.steps.get(run.task_id)
    step = log.find(key) if log is not None else None
    if step is None:
        raise Fenced("the task has ended")
    return (await run.load(step.result)).decode("utf-8", "replace")


def _refusal(outcome: Rejected) -> Exception:
    known = from_rejection(outcome)
    return refused(known.reason, known.message)


def _text(args: Any, name: str, size_max: int) -> str:
    value = args.get(name) if isinstance(args, dict) else None
    if not isinstance(value, str) or not value or len(value.encode("utf-8", "replace")) > size_max:
        raise refused("BAD_ARGUMENTS", f"{name}: give a text of 1 to {size_max} bytes")
    return value


def _number(args: Any, name: str, high: int) -> int:
    value = args.get(name) if isinstance(args, dict) else None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= high:
        raise refused("BAD_ARGUMENTS", f"{name}: {value!r} is not in 0..{high}")
    return value
