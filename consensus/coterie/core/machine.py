"""The deterministic state machine: apply(state, command, moment) -> outcome. Total: it never raises."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from coterie.core import (
    access_rules,
    agent_rules,
    breaker_rules,
    breaker_wakes,
    child_rules,
    control_rules,
    limit_rules,
    node_rules,
    retry_rules,
    submit_rules,
    task_rules,
)
from coterie.core.breaker_commands import EndProbe, ResetBreaker, TakeProbe, TripBreaker
from coterie.core.cluster_config import RULES as CONFIG_RULES
from coterie.core.commands import (
    Accepted,
    AdvanceClock,
    AssignTask,
    BeginLeadership,
    Called,
    CancelChildren,
    CancelTask,
    Command,
    ConfigureCluster,
    ConfirmCancel,
    DeleteLimit,
    ExpireTask,
    FailAttempt,
    FinishTask,
    ForgetNode,
    MarkNode,
    MoveTask,
    Outcome,
    PauseTask,
    PurgeDeadLetters,
    RecordStep,
    RegisterNode,
    Rejected,
    ReleaseTask,
    ReplayTask,
    ReportProgress,
    ResumeTask,
    RetryTask,
    SaveCheckpoint,
    SetDrain,
    SetLimit,
    SetTenant,
    SignalTask,
    SpawnChild,
    StartTask,
    SubmitTask,
    SuspendTask,
    TakeTokens,
)
from coterie.core.coordination import rules as coordination
from coterie.core.decisions import rules as decision_rules
from coterie.core.lifecycle import settle
from coterie.core.llm.rules import RULES as LLM_RULES
from coterie.core.meters import LeaseTokens, SettleTokens
from coterie.core.nouns import evolve
from coterie.core.request_ids import once
from coterie.core.runs import rules as run_rules
from coterie.core.runs.follow_up import follow_up
from coterie.core.skill_rules import RULES as SKILL_RULES
from coterie.core.state import ClusterState, Moment

Rule = Callable[[ClusterState, Any, Moment], Outcome]


def apply(state: ClusterState, command: Command, moment: Moment) -> Outcome:
    """Change the state by one command. The only door into the state."""
    state.advance(moment.at_ms)
    rule = RULES.get(type(command))
    if rule is None:
        return Rejected("UNKNOWN_COMMAND", f"no rule for {type(command).__name__}")
    moment = Moment(moment.index, state.meta.clock_ms)
    if state.coordination.alarms.next_ms <= moment.at_ms:
        coordination.on_time(state, moment)
    outcome = rule(state, command, moment)
    if state.ended_parents:
        settle(state, moment)
    if state.run_news:
        follow_up(state, moment)
    if state.ended_holders:
        coordination.on_end(state, moment)
    return outcome


def _configure(state: ClusterState, command: ConfigureCluster, moment: Moment) -> Outcome:
    meta = state.meta
    if meta.cluster_id and meta.cluster_id != command.cluster_id:
        return Rejected("OTHER_CLUSTER", f"this is cluster {meta.cluster_id}")
    seal = meta.seal or command.seal
    duplicate = meta.cluster_id != "" and meta.policy == command.policy and meta.seal == seal
    state.meta = evolve(
        meta,
        cluster_id=command.cluster_id,
        cluster_name=command.cluster_name,
        policy=command.policy,
        seal=seal,
    )
    state.indexes.queue.set_ageing(command.policy.ageing_ms)
    return Accepted(duplicate=duplicate)


def _called(state: ClusterState, called: Called, moment: Moment) -> Outcome:
    """A command on behalf of somebody: nothing of another tenant is touched, and what came of it is noted."""
    command, origin = called.command, called.origin
    rule = RULES.get(type(command))
    if rule is None or rule is _called:
        return Rejected("UNKNOWN_COMMAND", f"no rule for {type(command).__name__}")
    tenant = access_rules.tenant_of(state, command, origin)
    outcome = access_rules.hidden(state, command, origin) or rule(state, command, moment)
    access_rules.record(state, command, origin, outcome, moment, tenant)
    return outcome


RULES: dict[type, Rule] = {
    ConfigureCluster: _configure,
    SubmitTask: submit_rules.submit,
    AssignTask: task_rules.assign,
    StartTask: task_rules.start,
    RecordStep: task_rules.record_step,
    SaveCheckpoint: task_rules.save_checkpoint,
    ReportProgress: task_rules.report_progress,
    FinishTask: task_rules.finish,
    FailAttempt: retry_rules.fail_attempt,
    ReleaseTask: retry_rules.release,
    CancelTask: once(control_rules.cancel),
    ConfirmCancel: control_rules.confirm_cancel,
    ExpireTask: retry_rules.expire,
    RegisterNode: node_rules.register,
    MarkNode: node_rules.mark,
    SetDrain: node_rules.set_drain,
    BeginLeadership: node_rules.begin_leadership,
    ForgetNode: node_rules.forget,
    PauseTask: once(control_rules.pause),
    ResumeTask: once(control_rules.resume),
    SignalTask: once(control_rules.signal),
    SuspendTask: control_rules.suspend,
    RetryTask: once(control_rules.hurry),
    ReplayTask: submit_rules.replay,
    PurgeDeadLetters: submit_rules.purge,
    SetLimit: limit_rules.set_limit,
    DeleteLimit: limit_rules.delete_limit,
    SetTenant: limit_rules.set_tenant,
    TakeTokens: limit_rules.take_tokens,
    AdvanceClock: limit_rules.advance,
    **decision_rules.RULES,
    LeaseTokens: limit_rules.lease_tokens,
    SettleTokens: limit_rules.settle_tokens,
    SpawnChild: child_rules.spawn,
    CancelChildren: child_rules.cancel_open,
    **LLM_RULES,
    **coordination.RULES,
    MoveTask: control_rules.move,
    TripBreaker: breaker_rules.trip,
    TakeProbe: breaker_rules.take_probe,
    EndProbe: breaker_wakes.end_probe,
    ResetBreaker: breaker_wakes.reset,
    **run_rules.RULES,
    Called: _called,
    **access_rules.RULES,
    **CONFIG_RULES,
    **SKILL_RULES,
    **agent_rules.RULES,
}
