"""Calls of language models, and what they may cost."""

from __future__ import annotations

from coterie.core.llm.commands import (
    BeginLlmCall,
    DeleteLlmBudget,
    ForgetLlmAnswers,
    NoteLlmHandle,
    SetLlmBudget,
    SettleLlmCall,
)
from coterie.core.llm.nouns import LlmBudget, LlmVerdict, OnExhausted
from coterie.core.nouns import Constraints, Data, TaskId
from tests.core.builders import submit_command
from tests.core.story.stage import Stage

ASKED = ("main", "model-1", "hash of the request")


def spend(stage: Stage) -> None:
    """A call that was answered, and is kept; one that failed, one in doubt, one that is open."""
    amounts = (1_000_000, 2_000_000, 300, 7_200_000)
    stage.do(SetLlmBudget(LlmBudget("daily", "acme", "*", "*", "*", *amounts, OnExhausted.FAIL)))
    stage.do(SetLlmBudget(LlmBudget("whole", tokens=3_000_000)))
    session = Constraints(session="session-2")
    stage.do(submit_command("thinks", tenant="acme", agent="scribe", constraints=session))
    task_id, attempt = stage.start("thinks")
    for key in ("answered", "failed", "doubtful", "open"):
        stage.do(BeginLlmCall(task_id, attempt, key, 1, *ASKED, 700, 900, f"cache-{key}", alone=True))
        stage.do(NoteLlmHandle(task_id, attempt, key, 1, f"handle-{key}"))
    failed, doubt = LlmVerdict.FAILED, LlmVerdict.IN_DOUBT
    stage.do(_answer(task_id, attempt))
    stage.do(SettleLlmCall(task_id, attempt, "failed", 1, failed, reason="the provider refused"))
    stage.do(SettleLlmCall(task_id, attempt, "doubtful", 1, doubt, reason="the line broke"))


def _answer(task_id: TaskId, attempt: int) -> SettleLlmCall:
    return SettleLlmCall(
        task_id,
        attempt,
        "answered",
        1,
        LlmVerdict.DONE,
        Data(b"an answer"),
        tokens_in=90,
        tokens_out=60,
        tokens_cached=30,
        micro_usd=400,
        cache_ttl_ms=50_000,
        beside=("open",),
    )


def stop(stage: Stage) -> None:
    task = stage.task("thinks")
    stage.do(ForgetLlmAnswers(TaskId("thinks"), task.attempt, ("cache-answered",)))
    stage.do(SettleLlmCall(TaskId("thinks"), task.attempt, "open", 1, LlmVerdict.UNSENT, reason="no need"))
    stage.do(DeleteLlmBudget("whole"))
