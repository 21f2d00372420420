"""Calls and what remains of them: a task's list, the ledger of doubtful calls, sums of what was used."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from coterie.core.bounds64 import within
from coterie.core.llm import accounts
from coterie.core.llm.nouns import DoubtfulCall, LlmCall, LlmUsage
from coterie.core.llm.state import LlmState
from coterie.core.nouns import TaskId

DOUBTFUL_MAX = 10_000  # the oldest leave; the sums keep them
USAGES_MAX = 10_000
OTHERS = "(others)"  # whom usage is counted under when there are too many


def keep(llm: LlmState, call: LlmCall) -> None:
    """Put the call in the place of the one of its step."""
    _fly(llm, call, llm.find(call.task_id, call.key), call.open)
    others = tuple(known for known in llm.calls.get(call.task_id, ()) if known.key != call.key)
    llm.calls[call.task_id] = (*others, call)


def drop(llm: LlmState, call: LlmCall) -> None:
    """Forget the call: its step is recorded."""
    _fly(llm, call, llm.find(call.task_id, call.key), False)
    others = tuple(known for known in llm.calls.get(call.task_id, ()) if known.key != call.key)
    if others:
        llm.calls[call.task_id] = others
    else:
        llm.calls.pop(call.task_id, None)


def _fly(llm: LlmState, call: LlmCall, before: LlmCall | None, is_open: bool) -> None:
    """Count the open calls that ask the same."""
    by = int(is_open) - int(before is not None and before.open)
    if not call.cache_key or not by:
        return
    count = llm.flights.get(call.cache_key, 0) + by
    if count:
        llm.flights[call.cache_key] = count
    else:
        del llm.flights[call.cache_key]


def close(llm: LlmState, call: LlmCall, reason: str, at_ms: int) -> None:
    """Nobody knows whether the call was billed: its worst case counts, and it stands in the ledger."""
    worst = call.reserved
    accounts.release(llm, call.holds, worst, worst)
    keep(llm, replace(call, open=False, holds=()))
    spent(llm, call, in_doubt=1, in_doubt_tokens=worst.tokens, in_doubt_micro_usd=worst.micro_usd)
    doubtful = DoubtfulCall(
        call.task_id,
        call.key,
        call.number,
        call.attempt,
        call.tenant,
        call.agent,
        call.provider,
        call.model,
        call.request_hash,
        call.handle,
        worst.tokens,
        worst.micro_usd,
        at_ms,
        reason,
    )
    llm.doubtful[doubtful.name] = doubtful
    while len(llm.doubtful) > DOUBTFUL_MAX:
        llm.doubtful.popitem(last=False)


def close_task(llm: LlmState, task_id: TaskId, at_ms: int) -> None:
    """The task has ended: calls of it that are still open will never be answered to anybody."""
    for call in llm.calls.get(task_id, ()):
        if call.open:
            close(llm, call, "its task ended", at_ms)
    llm.calls.pop(task_id, None)


def spent(llm: LlmState, call: LlmCall, **more: int) -> None:
    """Add to the sums of the tenant's agent and model."""
    usage = LlmUsage(call.tenant, call.agent, call.model)
    if usage.name not in llm.usage and len(llm.usage) >= USAGES_MAX:
        usage = LlmUsage(OTHERS, "", "")
    known = llm.usage.get(usage.name, usage)
    sums: dict[str, Any] = {name: within(getattr(known, name) + by) for name, by in more.items()}
    llm.usage[usage.name] = replace(known, **sums)
