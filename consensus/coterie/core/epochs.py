"""A restored state begins an epoch of its own, in which nothing that was handed out before can be used.

Since a backup was made its cluster has gone on: it has begun attempts, granted locks and told positions that
the backup does not know. Each kind of number jumps farther than that can have been, so that none is handed
out twice: an attempt of then reports to an attempt that is over, and whoever is shown the token of a lock
can tell that it is the newer one (Kleppmann, "How to do distributed locking", 2016)."""

from __future__ import annotations

from dataclasses import dataclass

from coterie.core.access import Origin
from coterie.core.access_commands import NoteCall
from coterie.core.commands import Called, ForgetNode, ReleaseTask
from coterie.core.lifecycle import change_task
from coterie.core.machine import apply
from coterie.core.nouns import evolve
from coterie.core.state import ClusterState, Moment
from coterie.core.transitions import HELD

ATTEMPTS_JUMP = 1_000_000
NUMBERS_JUMP = 1 << 32


@dataclass(frozen=True, slots=True)
class Epoch:
    """What is new about a restored cluster. `number` is one that no other restore has."""

    number: str
    cluster_id: str
    cluster_name: str
    origin: str  # of what it was restored, for the audit log and the events of tasks


def begin_epoch(state: ClusterState, epoch: Epoch, index: int) -> None:
    """Make a state that is not in use yet the first of its epoch, as of the log entry `index`. What was done
    and asked for stays: tasks, steps, request ids, limits. What runs goes back to the queue, the nodes are
    forgotten, the secret under which links to blobs are made is gone. Events and audit records are left in
    the state as by an entry."""
    moment = Moment(index, state.meta.clock_ms)
    for task in sorted(state.tasks.values(), key=lambda task: task.order):
        if task.state in HELD:
            apply(state, ReleaseTask(task.task_id, task.attempt, epoch.origin), moment)
    for node in list(state.nodes.values()):
        apply(state, ForgetNode(node.node_id, node.incarnation), moment)
    for task in sorted(state.tasks.values(), key=lambda task: task.order):
        raised = evolve(task, attempt=task.attempt + ATTEMPTS_JUMP)
        change_task(state, task, raised, moment, "restored", epoch.origin)
    meta = state.meta
    state.tombstones.clear()
    state.meta = evolve(
        meta,
        cluster_id=epoch.cluster_id,
        cluster_name=epoch.cluster_name,
        epoch=epoch.number,
        seal=b"",
        fencing_token=meta.fencing_token + NUMBERS_JUMP,
        kv_version=meta.kv_version + NUMBERS_JUMP,
        kv_forgotten=meta.kv_version + NUMBERS_JUMP,  # who watched has seen what is undone: it starts over
        message_position=meta.message_position + NUMBERS_JUMP,
        schedules_version=meta.schedules_version + NUMBERS_JUMP,
    )
    apply(state, Called(NoteCall(epoch.origin, "OK"), Origin("operator", "RestoreBackup")), moment)
