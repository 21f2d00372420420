"""Which role each call needs. A call that does not stand here is refused to everybody.

To add an rpc: write its name under the least role that may call it; with `!` behind it when it changes
something that no command in the log stands for, so that the audit log hears of it; with `^` when a node of
the same authority may call it, for itself, that does not belong to the cluster yet or any more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from coterie.core.access import ADMIN, OPERATOR, RUNNER, SUBMITTER, VIEWER

ANYONE = "anyone"  # who got through the handshake


@dataclass(frozen=True, slots=True)
class Rule:
    """What a call needs. `noted`: it is recorded by name, because its effect is not a command. `strangers`:
    nodes of the same authority may call it too, whoever belongs to the cluster."""

    role: str
    noted: bool = False
    strangers: bool = False


_TABLE: Mapping[str, Mapping[str, str]] = {
    "coterie.v1.Tasks": {
        VIEWER: "GetTask ListTasks WaitTask WaitTasks WatchTask RouteTask",
        SUBMITTER: "SubmitTask BatchSubmitTasks CancelTask PauseTask ResumeTask SignalTask RetryTask",
    },
    "coterie.v1.DeadLetters": {
        VIEWER: "ListDeadLetters GetDeadLetter",
        SUBMITTER: "ReplayDeadLetter PurgeDeadLetters",
    },
    "coterie.v1.Limits": {
        VIEWER: "ListLimits ListTenants",
        SUBMITTER: "TakeTokens",
        OPERATOR: "SetLimit DeleteLimit SetTenant",
    },
    "coterie.v1.Usage": {
        VIEWER: "ListBudgets GetUsage ListDoubtfulCalls",
        OPERATOR: "SetBudget DeleteBudget",
    },
    "coterie.v1.Blobs": {VIEWER: "GetBlob", SUBMITTER: "PutBlob"},
    "coterie.v1.Agents": {
        VIEWER: "ListAgents GetAgent GetAgentStatus MatchAgents",
        OPERATOR: "ApplyAgent RollBackAgent RemoveAgent",
    },
    "coterie.v1.Breakers": {VIEWER: "ListBreakers", OPERATOR: "ResetBreaker"},
    "coterie.v1.Approvals": {VIEWER: "ListApprovals", SUBMITTER: "ResolveApproval"},
    "coterie.v1.Effects": {VIEWER: "ListDoubts", SUBMITTER: "ResolveStep"},
    "coterie.v1.Schedules": {
        VIEWER: "GetSchedule ListSchedules",
        SUBMITTER: "ApplySchedule DeleteSchedule PauseSchedule ResumeSchedule TriggerSchedule"
        " BackfillSchedule",
    },
    "coterie.v1.Workflows": {
        VIEWER: "PlanWorkflow GetRun GetWorkflow ListWorkflows RouteGoal",
        SUBMITTER: "RunWorkflow RetryRun AddNodes ApplyWorkflow DeleteWorkflow SubmitGoal",
    },
    "coterie.v1.Debugger": {VIEWER: "GetHistory GetStateAt", SUBMITTER: "Fork"},
    "coterie.v1.Locks": {VIEWER: "ListLocks", SUBMITTER: "AcquireLock RenewLock ReleaseLock"},
    "coterie.v1.KeyValue": {VIEWER: "GetKey ListKeys WatchKeys", SUBMITTER: "PutKey DeleteKey"},
    "coterie.v1.Bus": {
        VIEWER: "Subscribe ListTopics ListGroups",
        SUBMITTER: "Publish Fetch Ack Seek SetTopic DeleteTopic SetGroup DeleteGroup",
    },
    "coterie.v1.Registry": {
        VIEWER: "ListSkills GetSkill",
        SUBMITTER: "PublishSkill",
        OPERATOR: "ApproveSkill RevokeSkill RouteSkill RollBackSkill RemoveSkill SetSkillPolicy",
    },
    "coterie.v1.Cluster": {
        VIEWER: "GetStatus ListNodes",
        OPERATOR: "DrainNode UndrainNode TransferLeadership!",
        ADMIN: "AddNode!^ RemoveNode! PromoteNode! MoveNode! CreateBackup",
    },
    "coterie.v1.Config": {
        OPERATOR: "GetConfig ListConfigRevisions",
        ADMIN: "ApplyConfig RollBackConfig",
    },
    "coterie.v1.Security": {
        VIEWER: "WhoAmI",
        ADMIN: "CreateToken ListTokens RevokeToken SetUser ListUsers DeleteUser",
    },
    "coterie.v1.Audit": {ADMIN: "ListAuditRecords"},
    "coterie.v1.Peer": {
        # Who may have a link is for the engine to say: a new leader is a stranger to who lags behind.
        RUNNER: "Raft^ GetRaftAddress^ Report StoreBlob FetchBlob FetchLedger GetLoads WatchTokens Ping",
    },
    "grpc.health.v1.Health": {ANYONE: "Check Watch"},
    "grpc.reflection.v1alpha.ServerReflection": {VIEWER: "ServerReflectionInfo"},
}


def _rules() -> dict[str, Rule]:
    """The table by full method name; see the marks above."""
    return {
        f"/{service}/{name.rstrip('!^')}": Rule(role, "!" in name, "^" in name)
        for service, roles in _TABLE.items()
        for role, names in roles.items()
        for name in names.split()
    }


RULES: Mapping[str, Rule] = MappingProxyType(_rules())
