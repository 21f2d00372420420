"""Waiting for others: for room in a budget, for a provider, or for the answer to an equal request."""

from __future__ import annotations

import asyncio

from coterie.core.commands import Accepted, Rejected, SuspendTask
from coterie.core.nouns import WaitReason
from coterie.node.clock import Clock
from coterie.node.llm.request import LlmRequest
from coterie.node.skill_calls import Run
from coterie.node.skillhost.nouns import Suspended
from coterie.skills import CallRefused

LOOK_S = 0.1
HERE_MS = 2_000  # so long a wait keeps the process; a longer one gives it back
AGAIN_MS = 1_000  # no suspended task asks again sooner
NAME_CHARS_MAX = 128


async def wait_for_flight(run: Run, request: LlmRequest) -> bool:
    """Until no equal call is in the air; False: it took longer than a call may take."""
    loop = asyncio.get_running_loop()
    end = loop.time() + request.provider.timeout_ms / 1000
    while request.cache_key in run.state.llm.flights:
        if loop.time() > end:
            return False
        await asyncio.sleep(LOOK_S)
    return True


async def wait_for_room(run: Run, refused: Rejected, budgets: int, clock: Clock) -> None:
    """Until asking again may help: a little here; longer without process and slot, unless the task has other
    calls in the air, which would be lost. `budgets`: the mark of those that refused it. Raises Suspended."""
    left_ms = refused.retry_at_ms - clock.now_ms() if refused.retry_at_ms else 0
    if refused.retry_at_ms and left_ms <= HERE_MS:
        await asyncio.sleep(max(left_ms, 20) / 1000 * (0.5 + clock.dice() / 2**33))
        return
    timeout_ms = max(left_ms, AGAIN_MS) if refused.retry_at_ms else 0
    await _suspend(run, WaitReason.BUDGET, refused.reason, timeout_ms, budgets)


async def wait_for_provider(run: Run, breaker: str, left_ms: int) -> None:
    """Until its breaker lets somebody ask again, or is closed. As `wait_for_room`."""
    if left_ms <= HERE_MS:
        await asyncio.sleep(max(left_ms, 20) / 1000)
    else:
        await _suspend(run, WaitReason.CIRCUIT_OPEN, breaker, left_ms)


async def _suspend(run: Run, reason: WaitReason, name: str, timeout_ms: int, seen: int = 0) -> None:
    """Returns where the wait is over before it began."""
    if any(call.open for call in run.state.llm.calls.get(run.task_id, ())):
        await asyncio.sleep(HERE_MS / 1000)
        return
    suspend = SuspendTask(run.task_id, run.attempt, reason, name[:NAME_CHARS_MAX], seen, timeout_ms)
    outcome = await run.commit_own(suspend)
    if isinstance(outcome, Accepted):
        raise Suspended
    if outcome.code == "WAIT_OVER":
        return
    raise CallRefused(outcome.reason, code=outcome.code)
