"""The deterministic state machine: apply(state, command, moment) -> outcome. Total: it never raises."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from coterie.core import node_rules, submit_rules, task_rules
from coterie.core.commands import (
    Accepted,
    AssignTask,
    BeginLeadership,
    CancelTask,
    Command,
    ConfigureCluster,
    ConfirmCancel,
    ExpireTask,
    FailAttempt,
    FinishTask,
    ForgetNode,
    MarkNode,
    Outcome,
    RecordStep,
    RegisterNode,
    Rejected,
    ReleaseTask,
    ReportProgress,
    SaveCheckpoint,
    SetDrain,
    StartTask,
    SubmitTask,
)
from coterie.core.nouns import evolve
from coterie.core.state import ClusterState, Moment

Rule = Callable[[ClusterState, Any, Moment], Outcome]


def apply(state: ClusterState, command: Command, moment: Moment) -> Outcome:
    """Change the state by one command. The only door into the state."""
    if moment.at_ms > state.meta.clock_ms:
        state.meta = evolve(state.meta, clock_ms=moment.at_ms)
    rule = RULES.get(type(command))
    if rule is None:
        return Rejected("UNKNOWN_COMMAND", f"no rule for {type(command).__name__}")
    return rule(state, command, Moment(moment.index, state.meta.clock_ms))


def _configure(state: ClusterState, command: ConfigureCluster, moment: Moment) -> Outcome:
    meta = state.meta
    if meta.cluster_id and meta.cluster_id != command.cluster_id:
        return Rejected("OTHER_CLUSTER", f"this is cluster {meta.cluster_id}")
    duplicate = meta.cluster_id != "" and meta.policy == command.policy
    state.meta = evolve(
        meta,
        cluster_id=command.cluster_id,
        cluster_name=command.cluster_name,
        policy=command.policy,
    )
    return Accepted(duplicate=duplicate)


RULES: dict[type, Rule] = {
    ConfigureCluster: _configure,
    SubmitTask: submit_rules.submit,
    AssignTask: task_rules.assign,
    StartTask: task_rules.start,
    RecordStep: task_rules.record_step,
    SaveCheckpoint: task_rules.save_checkpoint,
    ReportProgress: task_rules.report_progress,
    FinishTask: task_rules.finish,
    FailAttempt: task_rules.fail_attempt,
    ReleaseTask: task_rules.release,
    CancelTask: task_rules.cancel,
    ConfirmCancel: task_rules.confirm_cancel,
    ExpireTask: task_rules.expire,
    RegisterNode: node_rules.register,
    MarkNode: node_rules.mark,
    SetDrain: node_rules.set_drain,
    BeginLeadership: node_rules.begin_leadership,
    ForgetNode: node_rules.forget,
}
