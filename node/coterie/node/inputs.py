"""What an attempt is given to run: payload, checkpoint and the steps before, from wherever they are."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace

from coterie.core.nouns import NO_DATA, Data, Step, Task
from coterie.core.skillbook import SkillEntry, pin_of
from coterie.node.skillhost import SkillJob, SkillOutcome, verdicts
from coterie.skills.runframe import RUN_BODY_BYTES_MAX

Load = Callable[[Data], Awaitable[bytes]]


async def skill_job(task: Task, steps: Sequence[Step], load: Load) -> SkillJob | SkillOutcome:
    """The job with all that it needs in memory, or why it cannot run."""
    size = sum(map(size_of, (task.payload, task.checkpoint, *(step.result for step in steps))))
    if size > RUN_BODY_BYTES_MAX:  # looked at before: a journal of blobs may be larger than the memory
        return verdicts.too_large(size, RUN_BODY_BYTES_MAX)
    return SkillJob(
        task_id=task.task_id,
        attempt=task.attempt,
        skill=task.type,
        payload=await load(task.payload),
        steps={step.key: await load(step.result) for step in steps},
        checkpoint=None if task.checkpoint is NO_DATA else await load(task.checkpoint),
        timeout_ms=task.attempt_timeout_ms,
        revision=pin_of(task.constraints),
        checkpointed=task.checkpointed,
        beside={step.key: step.beside for step in steps if step.beside},
    )


def bounded(job: SkillJob, skillbook: Mapping[str, SkillEntry], default_ms: int) -> SkillJob:
    """The job with the time that it has where its task says none: what the operator says of the skill, else
    the skill itself, else the cluster."""
    entry = skillbook.get(job.skill)
    said_ms = job.timeout_ms or (entry.policy.timeout_ms if entry is not None else 0)
    return replace(job, timeout_ms=said_ms, default_timeout_ms=default_ms)


def size_of(data: Data) -> int:
    """In bytes, wherever they are."""
    return data.size_bytes if data.sha256 else len(data.inline)
