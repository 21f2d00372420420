"""ctx.effect, ctx.approve and ctx.emit over the real calls and rules; only processes are left out."""

from __future__ import annotations

import json
from typing import Any

import pytest

from coterie.core.commands import ConfigureCluster, ExpireTask, ResolveApproval, ResolveStep, SuspendTask
from coterie.core.decisions.nouns import Resolution
from coterie.core.nouns import Data, ExpiryKind, Policy, TaskId, TaskState, WaitReason
from coterie.node.skillhost.nouns import Suspended
from coterie.skills import CallRefused, Effect, InDoubt, NotDone, SkillContext, WaitTimedOut
from tests.node.family_bench import PARENT, FamilyBench


class Dies(Exception):
    """Stands for a node that dies in the middle of a call."""


class Target:
    """Something outside that is called, and remembers."""

    def __init__(self, *faults: Exception) -> None:
        self.calls: list[Effect] = []
        self.faults = list(faults)

    def send(self, to: str, effect: Effect) -> str:
        self.calls.append(effect)
        if self.faults:
            raise self.faults.pop(0)
        return f"sent to {to}"


@pytest.fixture
def bench() -> FamilyBench:
    return FamilyBench(lambda kind, payload: None)


def program(target: Target, **options: Any) -> Any:
    async def run(ctx: SkillContext) -> Any:
        return await ctx.effect("mail", target.send, "ann", **options)

    return run


async def died_in_the_air(bench: FamilyBench, target: Target, **options: Any) -> None:
    with pytest.raises(Dies):
        await bench.attempt(program(target, **options))
    bench.lose()


async def test_an_approval_whose_end_finds_no_room_in_the_journal_is_refused(bench: FamilyBench) -> None:
    async def run(ctx: SkillContext) -> Any:
        return await ctx.approve("really?", {"delete": "all"}, timeout=60)

    bench.core.do(ConfigureCluster("c", "c", Policy(steps_per_task_max=1), seal=b"seal"))
    bench.core.do(SuspendTask(PARENT, 1, WaitReason.TIMER, "timer:1", timeout_ms=1))
    bench.core.do(ExpireTask(PARENT, 1, ExpiryKind.WAIT))
    bench.core.assign("p")
    with pytest.raises(CallRefused, match="at most 1 waits"):
        await bench.attempt(run)


async def test_a_completed_effect_is_never_called_again(bench: FamilyBench) -> None:
    target = Target()
    for _ in range(3):
        assert await bench.attempt(program(target)) == "sent to ann"
        bench.lose()
    assert target.calls == [Effect("p/mail", 1, 1)] and not bench.core.state.doubts


async def test_retry_calls_again_with_the_same_key_and_a_higher_fence(bench: FamilyBench) -> None:
    target = Target(Dies(), Dies())
    await died_in_the_air(bench, target, key="order-7")
    await died_in_the_air(bench, target, key="order-7")
    assert await bench.attempt(program(target, key="order-7")) == "sent to ann"
    assert target.calls == [Effect("order-7", n, n) for n in (1, 2, 3)]
    assert len(bench.core.state.doubts) == 2, "each may have happened"


async def test_another_key_at_the_same_step_is_found_out(bench: FamilyBench) -> None:
    target = Target(Dies())
    await died_in_the_air(bench, target, key="order-7")
    with pytest.raises(CallRefused, match="was begun with key 'order-7'") as refused:
        await bench.attempt(program(target, key="order-8"))
    assert refused.value.code == "NOT_DETERMINISTIC" and len(target.calls) == 1


async def test_fail_says_so_and_calls_nothing(bench: FamilyBench) -> None:
    target = Target(Dies())
    await died_in_the_air(bench, target, on_unknown="fail")
    with pytest.raises(InDoubt, match="step 'mail' is in doubt"):
        await bench.attempt(program(target, on_unknown="fail"))
    assert len(target.calls) == 1


@pytest.mark.parametrize("resolution", [Resolution.DONE, Resolution.RETRIED, Resolution.FAILED])
async def test_ask_waits_for_an_operator(bench: FamilyBench, resolution: Resolution) -> None:
    target = Target(Dies())
    await died_in_the_air(bench, target, effects="external")
    with pytest.raises(Suspended):
        await bench.attempt(program(target, effects="external"))
    wait = bench.core.task("p").wait
    assert wait is not None and (wait.reason, wait.name) == (WaitReason.IN_DOUBT, "mail")
    bench.core.do(ResolveStep(PARENT, "mail", resolution, Data(b'"it was sent"'), "ann", "I looked"))
    assert bench.core.task("p").state is TaskState.PENDING
    bench.core.assign("p")
    if resolution is Resolution.FAILED:
        with pytest.raises(InDoubt, match="I looked"):
            await bench.attempt(program(target, effects="external"))
        return
    said = "it was sent" if resolution is Resolution.DONE else "sent to ann"
    assert await bench.attempt(program(target, effects="external")) == said
    assert len(target.calls) == (1 if resolution is Resolution.DONE else 2)


async def test_what_was_certainly_not_done_may_be_done(bench: FamilyBench) -> None:
    target = Target(NotDone("connection refused"))
    with pytest.raises(NotDone):
        await bench.attempt(program(target, on_unknown="fail"))
    bench.lose()
    assert await bench.attempt(program(target, on_unknown="fail")) == "sent to ann"
    assert not bench.core.state.doubts


async def test_no_effect_is_a_plain_step(bench: FamilyBench) -> None:
    async def run(ctx: SkillContext) -> Any:
        ctx.effects = "none"
        return await ctx.effect("count", lambda: 1)

    assert await bench.attempt(run) == 1
    assert [event.type for event in bench.core.events if event.task.task_id == "p"][-1] == "step"
    with pytest.raises(ValueError, match="on_unknown"):
        await bench.attempt(program(Target(), on_unknown="hope"))


# --- approvals


def asking(call: Any, approvers: int = 1, timeout: float | None = None) -> Any:
    async def run(ctx: SkillContext) -> Any:
        return await ctx.approve("send?", call, approvers, timeout)

    return run


def vote(bench: FamilyBench, who: str, approve: bool = True) -> None:
    approval = bench.core.state.approvals[PARENT].approvals[0]
    command = ResolveApproval(PARENT, approval.approval_id, who, approve, approval.call_sha256, f"says {who}")
    bench.core.do(command)


async def test_a_call_is_approved_by_so_many_people(bench: FamilyBench) -> None:
    call = {"to": "ann", "amount": 7}
    with pytest.raises(Suspended):
        await bench.attempt(asking(call, approvers=2))
    vote(bench, "bob")
    assert bench.core.task("p").state is TaskState.WAITING
    vote(bench, "eve")
    bench.core.assign("p")
    decision = await bench.attempt(asking({"amount": 7, "to": "ann"}, approvers=2))
    assert decision and decision.by == ("bob", "eve") and decision.comments == ("says bob", "says eve")
    bench.lose()
    with pytest.raises(CallRefused) as refused:
        await bench.attempt(asking({"to": "ann", "amount": 8}, approvers=2))
    assert refused.value.code == "NOT_DETERMINISTIC", "they did not approve that"


async def test_a_rejected_call_is_not_approved(bench: FamilyBench) -> None:
    with pytest.raises(Suspended):
        await bench.attempt(asking(1, approvers=3))
    vote(bench, "bob", approve=False)
    bench.core.assign("p")
    decision = await bench.attempt(asking(1, approvers=3))
    assert not decision and decision.by == ("bob",)


async def test_a_question_expires(bench: FamilyBench) -> None:
    with pytest.raises(Suspended):
        await bench.attempt(asking(1, timeout=0.5))
    wait = bench.core.task("p").wait
    assert wait is not None and wait.until_ms
    from coterie.core.commands import ExpireTask
    from coterie.core.nouns import ExpiryKind

    bench.core.now_ms = wait.until_ms
    bench.core.do(ExpireTask(PARENT, 1, ExpiryKind.WAIT))
    bench.core.assign("p")
    for _ in range(2):
        with pytest.raises(WaitTimedOut):
            await bench.attempt(asking(1, timeout=0.5))
        bench.lose()


# --- events


async def test_an_event_is_told_once(bench: FamilyBench) -> None:
    async def run(ctx: SkillContext) -> Any:
        await ctx.emit("found", {"n": 1})
        await ctx.emit("found", {"n": 2})

    for _ in range(2):
        await bench.attempt(run)
        bench.lose()
    told = [json.loads(event.detail) for event in bench.core.events if event.type == "emitted"]
    assert told == [{"event": "found", "data": {"n": 1}}, {"event": "found", "data": {"n": 2}}]
    assert next(iter(bench.core.state.steps[TaskId("p")])).key == "emit:found"
