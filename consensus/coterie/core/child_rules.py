"""How a running task gets children, and lets go of them."""

from __future__ import annotations

from coterie.core.commands import Accepted, CancelChildren, Outcome, Rejected, SpawnChild
from coterie.core.families import CHILDREN_MAX, GENERATIONS_MAX, Child, Family
from coterie.core.lifecycle import cancel_task, change_task, fenced, heard
from coterie.core.nouns import Task, evolve
from coterie.core.shown import shown
from coterie.core.state import ClusterState, Moment, held
from coterie.core.submit_rules import create, full, unskilled


def spawn(state: ClusterState, command: SpawnChild, moment: Moment) -> Outcome:
    """A child that is asked for again, by a later attempt of its parent, is the child that there is."""
    asked = command.task
    parent = heard(state, asked.parent_id, command.attempt, moment)
    if isinstance(parent, Rejected):
        return parent
    family = state.families.get(parent.task_id)
    place = family.place_of(asked.task_id) if family is not None else None
    if family is not None and place is not None:
        return _again(family[place], command)
    begun = len(family.group(command.group).places) if family is not None else 0
    if command.place != begun:
        return Rejected("OUT_OF_ORDER", f"{begun} children of group {command.group} have begun")
    refused = _refused(state, parent, family, command)
    if refused is not None:
        return refused
    if family is None:
        family = state.families[parent.task_id] = Family()
    before = family.bytes_held
    family.begin(Child(asked.task_id, command.group, asked.digest))
    state.indexes.live_bytes += family.bytes_held - before
    if parent.crashes:  # it got further than the attempts before: see retry_rules
        change_task(state, parent, evolve(parent, crashes=()), moment, "child_begun", asked.task_id)
    create(state, asked, moment, f"a child of {parent.task_id}")
    return Accepted(asked.task_id)


def _again(known: Child, command: SpawnChild) -> Outcome:
    if known.digest == command.task.digest and known.group == command.group:
        return Accepted(known.task_id, duplicate=True)
    return Rejected("CHILD_DIFFERS", f"child {known.task_id} was asked for with another type or payload")


def _refused(
    state: ClusterState, parent: Task, family: Family | None, command: SpawnChild
) -> Rejected | None:
    asked = command.task
    if parent.cancel_requested or parent.tenant != asked.tenant:
        return Rejected("PARENT_ENDED", f"task {parent.task_id} is being cancelled, or of another tenant")
    if not asked.task_id or state.is_taken(asked.task_id):
        return Rejected(
            "TASK_EXISTS", f"a task {shown(asked.task_id)} exists that is no child of {parent.task_id}"
        )
    if _generations(state, parent) >= GENERATIONS_MAX:
        return Rejected("TOO_DEEP", f"above a task there are at most {GENERATIONS_MAX} generations")
    if family is not None:
        if len(family) >= CHILDREN_MAX:
            return Rejected("TOO_MANY_CHILDREN", f"a task has at most {CHILDREN_MAX} children")
        limit = state.meta.policy.task_bytes_max
        if family.bytes_held > limit:
            text = f"its children and their results hold {family.bytes_held} bytes, the limit is {limit}"
            return Rejected("TASK_TOO_LARGE", text)
    return unskilled(state, asked) or full(state, asked.tenant, held(asked.payload))


def _generations(state: ClusterState, task: Task) -> int:
    """How many live tasks stand above the children of this one."""
    count, above = 1, state.tasks.get(task.parent_id)
    while above is not None and count < GENERATIONS_MAX:
        count, above = count + 1, state.tasks.get(above.parent_id)
    return count


def cancel_open(state: ClusterState, command: CancelChildren, moment: Moment) -> Outcome:
    parent = fenced(state, command.parent_id, command.attempt)
    if isinstance(parent, Rejected):
        return parent
    family = state.families.get(parent.task_id)
    for task_id in family.open_in(command.group) if family is not None else ():
        cancel_task(state, state.tasks[task_id], command.reason, moment)
    return Accepted(parent.task_id)
