"""One run of one skill, from payload to outcome. Nothing a handler raises gets past here."""

from __future__ import annotations

import asyncio
import inspect
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from coterie.skills import jsonio
from coterie.skills.context import SkillContext, SyncSkillContext
from coterie.skills.errors import BadInput, BadOutput, Cancelled, Fenced, NonRetryable, SkillError
from coterie.skills.limits import Limits
from coterie.skills.registry import Skill

Kind = Literal["succeeded", "failed", "cancelled", "fenced", "lease_lost"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended. `reuse`: the process may take another run."""

    kind: Kind
    result: bytes = b""
    code: str = ""
    message: str = ""
    retryable: bool = True
    traceback: str = ""
    reuse: bool = True


CANCELLED = Outcome("cancelled", code="CANCELLED", message="the task was cancelled", retryable=False)


async def run_skill(skill: Skill, ctx: SkillContext, payload: bytes, limits: Limits) -> Outcome:
    """Run the skill; every ending becomes an Outcome."""
    try:
        given = decode_input(skill, payload)
        result = checked_output(skill, await _call(skill, ctx, given))
        ctx.handler_returned()
        return Outcome("succeeded", jsonio.encode(result, "the result", limits.result_bytes_max))
    except asyncio.CancelledError as error:
        return _after_cancel(ctx, error, limits)
    except Cancelled as error:
        if ctx.cancelled:
            return Outcome("cancelled", code="CANCELLED", message=_say(error, limits), retryable=False)
        return failure(error, limits)
    except Fenced as error:
        return Outcome("fenced", code="FENCED", message=_say(error, limits), reuse=False)
    except BaseException as error:
        return failure(error, limits)


def decode_input(skill: Skill, payload: bytes) -> Any:
    """The payload as the handler wants it. Raises BadInput."""
    try:
        value = jsonio.decode(payload)
    except ValueError as error:
        raise BadInput(f"payload: not JSON ({error}); send UTF-8 JSON") from error
    if skill.model is None:
        return value
    try:
        return skill.model.model_validate(value)  # type: ignore[attr-defined]
    except ValueError as error:
        raise BadInput(f"payload: {_violations(error)}") from error


def checked_output(skill: Skill, result: Any) -> Any:
    """The result as the class that the handler says it returns. Raises BadOutput."""
    if skill.returns is None or isinstance(result, skill.returns):
        return result
    try:
        return skill.returns.model_validate(result)  # type: ignore[attr-defined]
    except ValueError as error:
        raise BadOutput(f"result: {_violations(error)}") from error


def failure(error: BaseException, limits: Limits) -> Outcome:
    """The outcome for an exception that ended a run."""
    code, message, reuse = "SKILL_FAILED", _say(error, limits), True
    if isinstance(error, SkillError):
        code = jsonio.clip(str(error.code), 64)
    elif isinstance(error, MemoryError):
        code, reuse = "OUT_OF_MEMORY", False
    elif isinstance(error, SystemExit):
        code, reuse = "SKILL_EXITED", False
        said = f"the skill called sys.exit({error.code!r}); raise an error"
        message = jsonio.clip(said, limits.message_chars_max)
    elif not isinstance(error, Exception):
        reuse = False
    return Outcome(
        "failed",
        code=code,
        message=message,
        retryable=not isinstance(error, NonRetryable),
        traceback=_trace(error, limits),
        reuse=reuse,
    )


async def _call(skill: Skill, ctx: SkillContext, given: Any) -> Any:
    if inspect.iscoroutinefunction(skill.handler):
        return await skill.handler(ctx, given)
    sync_ctx = SyncSkillContext(ctx, asyncio.get_running_loop())
    result = await ctx.call_in_thread(lambda: skill.handler(sync_ctx, given))
    return await result if inspect.isawaitable(result) else result


def _after_cancel(ctx: SkillContext, error: asyncio.CancelledError, limits: Limits) -> Outcome:
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()
    if ctx.cancelled:
        return CANCELLED
    return failure(error, limits)


def _say(error: BaseException, limits: Limits) -> str:
    """One line: the class, unless the error is ours, and the text. An error's own __str__ may fail."""
    try:
        text = str(error)
    except BaseException:
        text = "(its text cannot be shown)"
    if not isinstance(error, SkillError):
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return jsonio.clip(text, limits.message_chars_max)


def _trace(error: BaseException, limits: Limits) -> str:
    try:
        # A text of megabytes is cut before it is formatted a second time.
        frames = "".join(traceback.format_tb(error.__traceback__, limit=-50))
    except BaseException:
        return ""
    return jsonio.clip(frames + _say(error, limits), limits.traceback_chars_max)


def _violations(error: ValueError) -> str:
    listing = getattr(error, "errors", None)
    if not callable(listing):
        return str(error)
    return "; ".join(_violation(item) for item in listing()[:20])


def _violation(item: Mapping[str, Any]) -> str:
    """Where, what is wrong, and the value, unless it is the whole that lacks something."""
    at = ".".join(str(part) for part in item.get("loc", ())) or "it"
    value = "" if item.get("type") == "missing" else f" (it is {jsonio.clip(repr(item.get('input')), 80)})"
    return f"{at}: {item.get('msg', 'invalid')}{value}"
