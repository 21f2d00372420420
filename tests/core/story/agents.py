"""Agents that are applied, and skills that are published."""

from __future__ import annotations

from coterie.core.agentbook import (
    AgentRevision,
    ApplyAgent,
    PinAgentRun,
    Pledge,
    RemoveAgent,
    RollBackAgent,
)
from coterie.core.commands import CancelTask, ExpireTask, FailAttempt, FinishTask, ReleaseTask
from coterie.core.llm.commands import BeginLlmCall, SettleLlmCall
from coterie.core.llm.nouns import LlmVerdict
from coterie.core.nouns import Data, ExpiryKind, RetryPolicy, TaskError, TaskId
from coterie.core.skill_commands import (
    DecideSkill,
    PublishSkill,
    RemoveSkill,
    RollBackSkill,
    RouteSkill,
    SetSkillPolicy,
)
from coterie.core.skillbook import RevisionState, SkillPolicy, SkillRevision
from tests.core.builders import submit_command
from tests.core.story.stage import Stage
from tests.core.story.tasks import BLOB, RETRY

FIRST, SECOND, THIRD = (f"{number:064x}" for number in (1, 2, 3))
PLEDGE = Pledge(
    availability_ppm=999_000,
    response_ms=3,
    runs_per_hour=60,
    window_ms=7_200_000,
    replicas=2,
    scaling=True,
    replicas_min=1,
    replicas_max=5,
    slots_percent=70,
    memory_percent=80,
    memory_bytes=1 << 20,
    unexported=True,
    gpus=2,
)


def apply(stage: Stage) -> None:
    """Three revisions, of which one is a canary, and runs of two of them that ended in many ways."""
    names = ("The scribe", ("writer", "clerk"), ("letters", "law"))
    for place, revision in enumerate((FIRST, SECOND, THIRD)):
        one = AgentRevision(revision, f"1.{place + 1}", Data(b"{}"), applied_at_ms=1, pledge=PLEDGE)
        stage.do(ApplyAgent("scribe", one, *names, percent=30 if revision == THIRD else 100))
    unwatched = AgentRevision(FIRST, "9", BLOB, pledge=Pledge(unwatched=True))
    stage.do(ApplyAgent("hermit", unwatched, "The hermit"))
    stage.do(ApplyAgent("gone", unwatched, "One that is removed"))
    _succeed(stage)
    _fail(stage, "refused-run", "BAD_INPUT")
    _fail(stage, "failed-run", "BOOM")
    _fail(stage, "dead-run", "BOOM", dead_letter=True)
    stage.do(ExpireTask(_begin(stage, "timed-run"), 1, ExpiryKind.ATTEMPT))
    _begin(stage, "live-run", SECOND)
    _think(stage, "live-run")
    stage.do(ReleaseTask(TaskId("live-run"), 1, "the node stops"))
    stage.do(CancelTask(_queued(stage, "called-off-run")))


def _queued(stage: Stage, name: str, dead_letter: bool = False) -> TaskId:
    retry = RetryPolicy(1, dead_letter=dead_letter)
    stage.do(submit_command(name, type="agent", agent="writer", tenant="acme", retry=retry))
    return TaskId(name)


def _begin(stage: Stage, name: str, revision: str = FIRST, dead_letter: bool = False) -> TaskId:
    _queued(stage, name, dead_letter)
    stage.pass_ms(5)
    task_id, attempt = stage.start(name)
    stage.do(PinAgentRun(task_id, attempt, revision))
    stage.pass_ms(20)
    return task_id


def _think(stage: Stage, name: str) -> None:
    """An answer, and a call that was refused."""
    for key, verdict in (("a", LlmVerdict.DONE), ("b", LlmVerdict.FAILED)):
        stage.do(BeginLlmCall(TaskId(name), 1, key, 1, "main", "model-1", "hash", 50, 60))
        used = (8, 9, 0, 11) if verdict is LlmVerdict.DONE else ()
        stage.do(SettleLlmCall(TaskId(name), 1, key, 1, verdict, Data(b"yes"), *used))


def _succeed(stage: Stage) -> None:
    task_id = _begin(stage, "good-run")
    _think(stage, task_id)
    stage.do(FinishTask(task_id, 1, Data(b"{}")))


def _fail(stage: Stage, name: str, code: str, dead_letter: bool = False) -> None:
    task_id = _begin(stage, name, dead_letter=dead_letter)
    stage.do(FailAttempt(task_id, 1, TaskError(code, "it did not work", retryable=False)))


def publish(stage: Stage) -> None:
    """A skill with a canary, and a policy that says everything."""
    for place, revision in enumerate((FIRST, SECOND, THIRD)):
        one = SkillRevision(
            revision,
            f"2.{place}",
            Data(b"files"),
            '{"handlers": ["run"]}',
            RevisionState.REVOKED,  # this and the times come from the log, whatever the command says
            published_at_ms=1,
            published_by="ann",
            decided_at_ms=2,
            decided_by="eve",
        )
        stage.do(PublishSkill("poet", one))
        stage.do(DecideSkill("poet", revision, True, "bob"))
    stage.do(PublishSkill("poet", SkillRevision(f"{4:064x}", bundle=BLOB)))
    for revision, percent in ((FIRST, 100), (SECOND, 100), (THIRD, 40)):
        stage.do(RouteSkill("poet", revision, percent))
    policy = SkillPolicy(
        title="Writes poems",
        version="2.1",
        owner="scribe",
        private=True,
        cpus=2,
        memory_bytes=1 << 21,
        gpus=1,
        timeout_ms=44_000,
        retry=RETRY,
        aliases=("writer",),
        handlers=("run",),
    )
    stage.do(SetSkillPolicy("poet", policy))
    stage.do(submit_command("poem", type="poet", agent="scribe"))


def retire(stage: Stage) -> None:
    """Canaries end, what was live before is live again, and some are removed."""
    for _ in range(2):
        stage.do(RollBackAgent("scribe"))
        stage.do(RollBackSkill("poet"))
    stage.do(RemoveAgent("gone"))
    stage.do(RemoveSkill("poet", f"{4:064x}"))
