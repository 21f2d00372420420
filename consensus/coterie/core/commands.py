"""Everything that may be proposed. A command carries every id and every die it needs; the time comes from
the log entry, stamped by the leader."""

from __future__ import annotations

from dataclasses import dataclass

from coterie.core.access import Origin
from coterie.core.access_commands import CreateToken, DeleteUser, NoteCall, RevokeToken, SetUser
from coterie.core.agentbook import AgentCommand
from coterie.core.breaker_commands import EndProbe, ResetBreaker, TakeProbe, TripBreaker
from coterie.core.child_commands import CancelChildren as CancelChildren
from coterie.core.child_commands import SpawnChild as SpawnChild
from coterie.core.command_outcome import NO_TASK as NO_TASK
from coterie.core.command_outcome import Accepted as Accepted
from coterie.core.command_outcome import Outcome as Outcome
from coterie.core.command_outcome import Rejected as Rejected
from coterie.core.config_commands import ApplyConfig
from coterie.core.control_commands import CancelTask as CancelTask
from coterie.core.control_commands import PauseTask as PauseTask
from coterie.core.control_commands import ResumeTask as ResumeTask
from coterie.core.control_commands import RetryTask as RetryTask
from coterie.core.control_commands import SignalTask as SignalTask
from coterie.core.coordination.commands import CoordinationCommand
from coterie.core.decisions.commands import AskApproval as AskApproval
from coterie.core.decisions.commands import BeginStep as BeginStep
from coterie.core.decisions.commands import ResolveApproval as ResolveApproval
from coterie.core.decisions.commands import ResolveStep as ResolveStep
from coterie.core.decisions.commands import WithdrawStep as WithdrawStep
from coterie.core.llm.commands import (
    BeginLlmCall,
    DeleteLlmBudget,
    ForgetLlmAnswers,
    NoteLlmHandle,
    SetLlmBudget,
    SettleLlmCall,
)
from coterie.core.meters import LeaseTokens, SettleTokens
from coterie.core.nouns import (
    Data,
    ExpiryKind,
    Label,
    NodeId,
    NodeStatus,
    Policy,
    SkillRef,
    TaskError,
    TaskId,
    WaitReason,
)
from coterie.core.quotas import Limit, Tenant
from coterie.core.runs.commands import AddNodes, RunWorkflow
from coterie.core.runs.texts import ApplyWorkflow, DeleteWorkflow
from coterie.core.skill_commands import SkillCommand
from coterie.core.submit_command import SubmitTask as SubmitTask


@dataclass(frozen=True, slots=True)
class ConfigureCluster:
    """Name the cluster at its first start, or change its limits. The first seal is kept."""

    cluster_id: str
    cluster_name: str
    policy: Policy
    seal: bytes = b""


@dataclass(frozen=True, slots=True)
class AssignTask:
    task_id: TaskId
    node_id: NodeId
    incarnation: int
    attempt: int  # the attempt this assignment begins: one more than the task's
    turn: int = 0  # in the rotation of round-robin; 0: no turn is taken
    if_first: bool = False  # refused when an older task of its kind and class waits: no plan stands behind it


@dataclass(frozen=True, slots=True)
class StartTask:
    task_id: TaskId
    attempt: int


@dataclass(frozen=True, slots=True)
class RecordStep:
    task_id: TaskId
    attempt: int
    key: str
    result: Data
    beside: tuple[str, ...] = ()  # steps this attempt has asked for since its last record, without a result
    told: bool = False  # something the skill tells its watchers


@dataclass(frozen=True, slots=True)
class SaveCheckpoint:
    task_id: TaskId
    attempt: int
    checkpoint: Data
    number: int  # grows with every checkpoint of the task: a late copy of an older one changes nothing
    steps: int = 0  # how many steps the task had when the checkpoint was taken; 0: not known


@dataclass(frozen=True, slots=True)
class ReportProgress:
    task_id: TaskId
    attempt: int
    percent_x100: int
    message: str


@dataclass(frozen=True, slots=True)
class FinishTask:
    task_id: TaskId
    attempt: int
    result: Data


@dataclass(frozen=True, slots=True)
class FailAttempt:
    """The attempt failed by itself; the task retries or ends."""

    task_id: TaskId
    attempt: int
    error: TaskError
    dice: int = 0  # uniform in 0..2**32-1: the jitter of the back-off


@dataclass(frozen=True, slots=True)
class ReleaseTask:
    """Take the task back from its node without blaming it; steps and checkpoint stay."""

    task_id: TaskId
    attempt: int
    reason: str
    lost: bool = False  # the node died or left: counted as a loss


@dataclass(frozen=True, slots=True)
class ConfirmCancel:
    """The worker has stopped the skill of a task whose cancellation was requested."""

    task_id: TaskId
    attempt: int


@dataclass(frozen=True, slots=True)
class ExpireTask:
    task_id: TaskId
    attempt: int
    kind: ExpiryKind
    dice: int = 0


@dataclass(frozen=True, slots=True)
class MoveTask:
    """Another node has more room: the attempt is to leave after its next step, or before it begins."""

    task_id: TaskId
    attempt: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class SuspendTask:
    """The attempt ends and its slot is free until what it waits for has come."""

    task_id: TaskId
    attempt: int
    reason: WaitReason  # SIGNAL, APPROVAL, TIMER or CHILD
    name: str = ""
    seen: int = 0  # signals of that name it has had; for CHILD: children it does not wait for
    timeout_ms: int = 0  # 0: none
    stop_after: int = 0  # for a CHILD group: that many failed children end the wait; 0: no number does


@dataclass(frozen=True, slots=True)
class ReplayTask:
    """A new run of a task that has ended, linked to it; a dead letter leaves the list thereby."""

    task_id: TaskId
    new_task_id: TaskId
    request_id: str = ""
    digest: bytes = b""
    keep_steps: bool = True


@dataclass(frozen=True, slots=True)
class PurgeDeadLetters:
    """Forget dead letters of a tenant: those named, or all that ended before a time."""

    tenant: str
    task_ids: tuple[TaskId, ...] = ()
    before_ms: int = 0


@dataclass(frozen=True, slots=True)
class SetLimit:
    limit: Limit


@dataclass(frozen=True, slots=True)
class DeleteLimit:
    limit_id: str


@dataclass(frozen=True, slots=True)
class SetTenant:
    tenant: Tenant


@dataclass(frozen=True, slots=True)
class TakeTokens:
    """Take tokens of a rate limit ahead, for a node to spend. Proposed twice it takes twice: never above."""

    limit_id: str
    count: int
    tenant: str = ""  # whose bucket, where the limit keeps one for each
    agent: str = ""
    type: str = ""
    key: str = ""


@dataclass(frozen=True, slots=True)
class AdvanceClock:
    """Nothing but the time: what was delayed until now is queued."""

    to_ms: int


@dataclass(frozen=True, slots=True)
class RegisterNode:
    node_id: NodeId
    address: str
    incarnation: int
    capacity: int
    zone: str = ""
    labels: tuple[Label, ...] = ()
    skills: tuple[SkillRef, ...] = ()
    version: str = ""
    memory_bytes: int = 0
    gpus: int = 0
    standby: bool = False
    confines: bool = False


@dataclass(frozen=True, slots=True)
class MarkNode:
    """The coordinator's verdict on a node. DOWN releases everything the node held."""

    node_id: NodeId
    incarnation: int
    status: NodeStatus
    reason: str = ""
    term: int = 0  # of the leadership that judged; 0: the node says it of itself


@dataclass(frozen=True, slots=True)
class SetDrain:
    """Empty a node, or let it work again."""

    node_id: NodeId
    draining: bool
    deadline_after_ms: int = 0
    number: int = 0  # one more than the node's drain_number when this was decided; 0: written by version 0.1
    leaving: bool = False  # remove it from the cluster once it is empty


@dataclass(frozen=True, slots=True)
class BeginLeadership:
    """A coordinator starts: verdicts of earlier terms that are still on their way count no more."""

    node_id: NodeId
    term: int


@dataclass(frozen=True, slots=True)
class ForgetNode:
    """A node that is no member of the cluster any more. A later process of that id is not meant."""

    node_id: NodeId
    incarnation: int


@dataclass(frozen=True, slots=True)
class Called:
    """A command that a caller asked for: refused when it touches what is not theirs, and recorded."""

    command: Command
    origin: Origin


Command = (
    ConfigureCluster
    | SubmitTask
    | AssignTask
    | StartTask
    | RecordStep
    | SaveCheckpoint
    | ReportProgress
    | FinishTask
    | FailAttempt
    | ReleaseTask
    | CancelTask
    | ConfirmCancel
    | ExpireTask
    | RegisterNode
    | MarkNode
    | SetDrain
    | BeginLeadership
    | ForgetNode
    | PauseTask
    | ResumeTask
    | SignalTask
    | SuspendTask
    | RetryTask
    | ReplayTask
    | PurgeDeadLetters
    | SetLimit
    | DeleteLimit
    | SetTenant
    | TakeTokens
    | AdvanceClock
    | SpawnChild
    | CancelChildren
    | BeginStep
    | WithdrawStep
    | ResolveStep
    | AskApproval
    | ResolveApproval
    | BeginLlmCall
    | NoteLlmHandle
    | SettleLlmCall
    | ForgetLlmAnswers
    | SetLlmBudget
    | DeleteLlmBudget
    | CoordinationCommand
    | MoveTask
    | TripBreaker
    | TakeProbe
    | EndProbe
    | ResetBreaker
    | CreateToken
    | RevokeToken
    | SetUser
    | DeleteUser
    | NoteCall
    | AgentCommand
    | Called
    | SkillCommand
    | RunWorkflow
    | AddNodes
    | ApplyWorkflow
    | DeleteWorkflow
    | LeaseTokens
    | SettleTokens
    | ApplyConfig
)
