"""The end of an attempt whose task says no time: what the leader cannot know, the node where it runs says."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from coterie.core.commands import ExpireTask
from coterie.core.nouns import ExpiryKind, Task
from coterie.core.ports import NotCommitted
from coterie.core.skillbook import SkillEntry, pin_of
from coterie.node.clock import Clock
from coterie.node.observability import get_logger
from coterie.node.proposer import Proposer
from coterie.node.skillhost.nouns import SkillInfo
from coterie.skills.described import from_json

log = get_logger(__name__)

SLACK_S = 5.0  # beyond its time, as the leader gives an attempt whose time it knows, and between proposals
PROPOSE_TIMEOUT_S = 30.0


def own_limit_ms(
    task: Task, skillbook: Mapping[str, SkillEntry], skills: Mapping[str, SkillInfo], default_ms: int
) -> int:
    """What the attempt may take by what the operator, its skill or the cluster says. 0: it has no end, or its
    task says one, and the leader sees to it. `skills`: those on this node's disk."""
    if task.attempt_timeout_ms:
        return 0
    entry = skillbook.get(task.type)
    if entry is not None and entry.policy.timeout_ms:
        return entry.policy.timeout_ms
    if pin := pin_of(task.constraints):
        revision = entry.find(pin) if entry is not None else None
        return (from_json(revision.manifest).timeout_ms if revision is not None else 0) or default_ms
    here = skills.get(task.type)
    return default_ms if here is None or here.timeout_ms is None else here.timeout_ms


class AttemptLimit:
    """Asks the log to end the attempt when its time is over and it lives on: the host ends what runs in a
    child process, but not an attempt that waits for its input, or for room for its result."""

    def __init__(self, task: Task, proposer: Proposer, clock: Clock) -> None:
        self._task, self._proposer, self._clock = task, proposer, clock
        self._timer: asyncio.TimerHandle | None = None
        self._asking: asyncio.Task[None] | None = None

    def start(self, limit_ms: int, job: asyncio.Task[None]) -> None:
        """From now on, until `job` has ended. 0: no limit."""
        if limit_ms:
            delay_s = limit_ms / 1_000 + SLACK_S
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._over)
            job.add_done_callback(lambda _: self.stop())

    def stop(self) -> None:
        """The attempt is over, or not ours any more."""
        if self._timer is not None:
            self._timer.cancel()
        if self._asking is not None:
            self._asking.cancel()

    def _over(self) -> None:
        self._asking = asyncio.get_running_loop().create_task(self._ask(), name="expire")

    async def _ask(self) -> None:
        """Until somebody stops it: a proposal may be lost, and an answer is followed by the worker's stop."""
        task = self._task
        fields = {"task_id": task.task_id, "attempt": task.attempt, "skill": task.type}
        command = ExpireTask(task.task_id, task.attempt, ExpiryKind.ATTEMPT, self._clock.dice())
        while True:
            log.warning("an attempt has outlived its time", extra=fields)
            try:
                await self._proposer.one(command, PROPOSE_TIMEOUT_S)
            except NotCommitted as error:
                log.debug("not expired yet", extra={**fields, "error": str(error)})
            await asyncio.sleep(SLACK_S)
