"""A call's life: begun before the provider hears of it, settled by one command, in doubt if nobody can say.

Invariants: at most one open call per step; a call's number never comes twice; an answer is recorded as its
step by the same command that settles its reservation; a task that ends leaves no open call behind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from coterie.core.agent_counts import note_spent
from coterie.core.bounds64 import later_ms
from coterie.core.commands import Accepted, Outcome, RecordStep, Rejected
from coterie.core.lifecycle import fenced, heard, wake_all
from coterie.core.llm import accounts
from coterie.core.llm.commands import (
    BeginLlmCall,
    DeleteLlmBudget,
    ForgetLlmAnswers,
    NoteLlmHandle,
    SetLlmBudget,
    SettleLlmCall,
)
from coterie.core.llm.doubts import close, drop, keep, spent
from coterie.core.llm.nouns import COUNT_MAX, Amount, CachedAnswer, Hold, LlmBudget, LlmCall, LlmVerdict
from coterie.core.llm.state import LlmState
from coterie.core.nouns import NO_PARENT, Task, WaitReason
from coterie.core.state import ClusterState, Moment
from coterie.core.task_rules import bad_key, record_step

BUDGETS_MAX = 1_000
CALLS_MAX = 1_000  # of a task, that have not been answered
FAMILY_DEPTH_MAX = 64
CACHED_BYTES_MAX = 64 * 1024  # of one answer
CACHE_BYTES_MAX = 16 * 1024 * 1024
CACHE_ENTRIES_MAX = 10_000


def begin(state: ClusterState, command: BeginLlmCall, moment: Moment) -> Outcome:
    task = heard(state, command.task_id, command.attempt, moment)
    if isinstance(task, Rejected):
        return task
    known = state.llm.find(task.task_id, command.key)
    again = _begun_before(state, known, command)
    if again is not None:
        return again
    if known is None and len(state.llm.calls.get(task.task_id, ())) >= CALLS_MAX:
        return Rejected("TOO_MANY_LLM_CALLS", f"{CALLS_MAX} steps of the task have called without an answer")
    if command.cache_key and _is_kept(state.llm, command.cache_key, moment.at_ms):
        return Rejected("LLM_ANSWER_KEPT", "an equal call has been answered")
    if command.cache_key and not command.alone and command.cache_key in state.llm.flights:
        return Rejected("LLM_IN_FLIGHT", "an equal call is in the air")
    need = Amount(command.tokens, command.micro_usd, 1)
    subject = accounts.Subject(task.tenant, task.agent, task.constraints.session, _root(state, task))
    found = accounts.places(state.llm, subject, moment.at_ms)
    refused = accounts.refusal(found, need, moment.at_ms)
    if refused is not None:
        return refused
    if accounts.full(state.llm, found, moment.at_ms, state.tasks.__contains__):
        return Rejected("TOO_MANY_ACCOUNTS", f"budgets have at most {accounts.ACCOUNTS_MAX} accounts")
    holds = accounts.reserve(state.llm, found, need, moment.at_ms, state.tasks.__contains__)
    keep(state.llm, _call(task, command, need, holds, moment))
    return Accepted(task.task_id)


def _begun_before(state: ClusterState, known: LlmCall | None, command: BeginLlmCall) -> Outcome | None:
    steps = state.steps.get(command.task_id)
    if steps is not None and steps.find(command.key) is not None:
        return Rejected("STEP_RECORDED", f"step {command.key} is completed")
    refused = bad_key(command.key)
    if refused is not None:  # before anything is paid for that no step could hold
        return refused
    if min(command.tokens, command.micro_usd) < 0:
        return Rejected("BAD_LLM_CALL", "tokens and micro_usd are not negative")
    if known is not None and known.open:
        if (known.number, known.attempt) == (command.number, command.attempt):
            return Accepted(command.task_id, duplicate=True)
        return Rejected("LLM_CALL_OPEN", f"call {known.number} of step {command.key} is not settled")
    last = known.number if known is not None else 0
    if command.number != last + 1:
        return Rejected("LLM_CALL_STALE", f"the last call of step {command.key} has number {last}")
    return None


def _call(
    task: Task, command: BeginLlmCall, need: Amount, holds: tuple[Hold, ...], moment: Moment
) -> LlmCall:
    return LlmCall(
        task.task_id,
        command.key,
        command.number,
        command.attempt,
        True,
        task.tenant,
        task.agent,
        command.provider,
        command.model,
        command.request_hash,
        command.cache_key,
        need,
        holds,
        begun_at_ms=moment.at_ms,
    )


def _root(state: ClusterState, task: Task) -> str:
    """The oldest ancestor that is known."""
    for _ in range(FAMILY_DEPTH_MAX):
        parent = state.task(task.parent_id) if task.parent_id != NO_PARENT else None
        if parent is None:
            break
        task = parent
    return task.task_id


def note_handle(state: ClusterState, command: NoteLlmHandle, moment: Moment) -> Outcome:
    task = fenced(state, command.task_id, command.attempt)
    if isinstance(task, Rejected):
        return task
    call = state.llm.find(task.task_id, command.key)
    if call is None or not call.open or call.number != command.number:
        return Rejected("LLM_CALL_STALE", f"call {command.number} of step {command.key} is not open")
    keep(state.llm, replace(call, handle=command.handle))
    return Accepted(task.task_id, duplicate=call.handle == command.handle)


# --- the end of a call


COUNTS: Final = ("tokens_in", "tokens_out", "tokens_cached", "micro_usd")


def _credible(command: SettleLlmCall) -> SettleLlmCall:
    """The command with counts that many of can be added."""
    counts = {name: getattr(command, name) for name in COUNTS}
    if all(0 <= count <= COUNT_MAX for count in counts.values()):
        return command
    return replace(command, **{name: max(0, min(count, COUNT_MAX)) for name, count in counts.items()})


def settle(state: ClusterState, command: SettleLlmCall, moment: Moment) -> Outcome:
    command = _credible(command)
    task = heard(state, command.task_id, command.attempt, moment)
    if isinstance(task, Rejected):
        return task
    call = state.llm.find(task.task_id, command.key)
    if call is None:
        return _settled_before(state, command)
    if call.number != command.number or (not call.open and command.verdict is LlmVerdict.DONE):
        return Rejected("LLM_CALL_STALE", f"call {command.number} of step {command.key} is not open")
    if not call.open:
        return Accepted(task.task_id, duplicate=True)
    if command.verdict is LlmVerdict.DONE:
        return _answered(state, call, command, moment)
    if command.verdict is LlmVerdict.IN_DOUBT:
        worst = call.reserved.micro_usd
        note_spent(state, task.task_id, llm_failed=1, micro_usd=worst)
        close(state.llm, call, command.reason, moment.at_ms)
    else:
        requests = 1 if command.verdict is LlmVerdict.FAILED else 0
        accounts.release(state.llm, call.holds, call.reserved, Amount(requests=requests))
        keep(state.llm, replace(call, open=False, holds=()))
        spent(state.llm, call, failed=requests)
        if requests:
            note_spent(state, task.task_id, llm_failed=requests)
    return Accepted(task.task_id)


def _settled_before(state: ClusterState, command: SettleLlmCall) -> Outcome:
    steps = state.steps.get(command.task_id)
    step = steps.find(command.key) if steps is not None else None
    if step is not None and step.attempt == command.attempt and step.result == command.result:
        return Accepted(command.task_id, duplicate=True)
    return Rejected("LLM_CALL_STALE", f"no call {command.number} of step {command.key}")


def _answered(state: ClusterState, call: LlmCall, command: SettleLlmCall, moment: Moment) -> Outcome:
    """What was billed counts in any case; the step may still be refused, when its task is full."""
    tokens = command.tokens_in + command.tokens_out
    accounts.release(state.llm, call.holds, call.reserved, Amount(tokens, command.micro_usd, 1))
    spent(
        state.llm,
        call,
        calls=1,
        tokens_in=command.tokens_in,
        tokens_out=command.tokens_out,
        tokens_cached=command.tokens_cached,
        micro_usd=command.micro_usd,
    )
    if state.agent_runs:
        used = {name: getattr(command, name) for name in ("tokens_in", "tokens_out", "micro_usd")}
        note_spent(state, call.task_id, llm_calls=1, **used)
    drop(state.llm, call)
    step = RecordStep(command.task_id, command.attempt, command.key, command.result, command.beside)
    outcome = record_step(state, step, moment)
    if isinstance(outcome, Accepted) and command.cache_ttl_ms > 0 and call.cache_key:
        _cache(state.llm, call.cache_key, command, moment.at_ms)
    return outcome


def _cache(llm: LlmState, key: str, command: SettleLlmCall, at_ms: int) -> None:
    """Keep the answer; what is too old or too much leaves, oldest first."""
    if command.result.sha256 or len(command.result.inline) > CACHED_BYTES_MAX:
        return
    _uncache(llm, key)
    llm.cache[key] = CachedAnswer(key, command.result, later_ms(at_ms, command.cache_ttl_ms))
    llm.cache_bytes += len(command.result.inline)
    while llm.cache:
        first = next(iter(llm.cache.values()))
        crowded = len(llm.cache) > CACHE_ENTRIES_MAX or llm.cache_bytes > CACHE_BYTES_MAX
        if first.until_ms > at_ms and not crowded:
            return
        _uncache(llm, first.key)


def _is_kept(llm: LlmState, key: str, at_ms: int) -> bool:
    """The node that asks may not have heard yet of the end of that call, or have a clock that is ahead."""
    kept = llm.cache.get(key)
    return kept is not None and kept.until_ms > at_ms


def _uncache(llm: LlmState, key: str) -> None:
    gone = llm.cache.pop(key, None)
    if gone is not None:
        llm.cache_bytes -= len(gone.result.inline)


def forget(state: ClusterState, command: ForgetLlmAnswers, moment: Moment) -> Outcome:
    task = fenced(state, command.task_id, command.attempt)
    if isinstance(task, Rejected):
        return task
    for key in command.keys:
        _uncache(state.llm, key)
    return Accepted(task.task_id)


# --- budgets


def set_budget(state: ClusterState, command: SetLlmBudget, moment: Moment) -> Outcome:
    """Other limits hold at once, on what is spent already. Another window or other selectors begin anew."""
    llm, budget = state.llm, command.budget
    wrong = _fault(budget)
    if wrong:
        return Rejected("BAD_BUDGET", wrong)
    known = llm.budgets.get(budget.budget_id)
    if known is None and len(llm.budgets) >= BUDGETS_MAX:
        return Rejected("TOO_MANY_BUDGETS", f"there are at most {BUDGETS_MAX} budgets")
    if known is not None and _scope(known) != _scope(budget):
        accounts.forget_budget(llm, budget.budget_id)
    llm.budgets[budget.budget_id] = budget
    if known != budget:
        _wake(state, moment)
    return Accepted(duplicate=known == budget)


def _scope(budget: LlmBudget) -> tuple[str, str, str, str, int]:
    return budget.tenant, budget.agent, budget.session, budget.task, budget.window_ms


def _fault(budget: LlmBudget) -> str:
    """What is wrong with it; empty: nothing."""
    if not budget.budget_id or "\0" in budget.budget_id:
        return "budget_id is empty or has a zero byte in it"
    if min(budget.tokens, budget.micro_usd, budget.requests, budget.window_ms) < 0:
        return "tokens, micro_usd, requests and window_ms are not negative"
    if not (budget.tokens or budget.micro_usd or budget.requests):
        return "tokens, micro_usd or requests must be above 0"
    return ""


def delete_budget(state: ClusterState, command: DeleteLlmBudget, moment: Moment) -> Outcome:
    if state.llm.budgets.pop(command.budget_id, None) is None:
        return Rejected("BUDGET_NOT_FOUND", f"no budget {command.budget_id}")
    accounts.forget_budget(state.llm, command.budget_id)
    _wake(state, moment)
    return Accepted()


def _wake(state: ClusterState, moment: Moment) -> None:
    """Budgets have changed: whoever waits for one asks again."""
    state.llm.budgets_changed()
    wake_all(state, state.indexes.sleepers.of(WaitReason.BUDGET), moment)


RULES: dict[type, Callable[[ClusterState, Any, Moment], Outcome]] = {
    BeginLlmCall: begin,
    NoteLlmHandle: note_handle,
    SettleLlmCall: settle,
    ForgetLlmAnswers: forget,
    SetLlmBudget: set_budget,
    DeleteLlmBudget: delete_budget,
}
