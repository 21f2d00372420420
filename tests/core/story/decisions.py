"""Steps whose effect nobody can tell of, and questions to people."""

from __future__ import annotations

from coterie.core.commands import (
    AskApproval,
    BeginStep,
    ReleaseTask,
    ResolveApproval,
    ResolveStep,
    WithdrawStep,
)
from coterie.core.decisions.nouns import OnUnknown, Resolution, approval_id
from coterie.core.nouns import Data
from tests.core.builders import submit_command
from tests.core.story.stage import Stage
from tests.core.story.tasks import BLOB

CALL = "cd" * 32


def decide(stage: Stage) -> None:
    """Steps in the air, in doubt and decided; an approval with a vote, one that was rejected."""
    stage.do(submit_command("careful", tenant="acme"))
    task_id, attempt = stage.start("careful")
    for key, unknown in (("pay", OnUnknown.ASK), ("mail", OnUnknown.RETRY), ("ship", OnUnknown.FAIL)):
        stage.do(BeginStep(task_id, attempt, key, f"effect-{key}", unknown))
    stage.do(BeginStep(task_id, attempt, "idle", "effect-idle", OnUnknown.ASK))
    stage.do(WithdrawStep(task_id, attempt, "idle"))
    stage.do(ReleaseTask(task_id, attempt, "the node stops"))
    stage.do(ResolveStep(task_id, "pay", Resolution.DONE, Data(b"paid"), "ann", "the bank says so"))
    stage.do(ResolveStep(task_id, "ship", Resolution.FAILED, principal="bob", reason="it was not there"))
    task_id, attempt = stage.start("careful")
    stage.do(BeginStep(task_id, attempt, "mail", "effect-mail", OnUnknown.RETRY))
    asked, other = approval_id(task_id, 1), approval_id(task_id, 2)
    stage.do(AskApproval(task_id, attempt, asked, "may I?", CALL, Data(b'{"sum": 9}'), 2, 60_000))
    stage.do(AskApproval(task_id, attempt, other, "and this?", CALL, BLOB, 1, 60_000))
    stage.do(ResolveApproval(task_id, asked, "ann", True, CALL, "looks right"))
    stage.do(ResolveApproval(task_id, other, "bob", False, CALL, "too much"))
