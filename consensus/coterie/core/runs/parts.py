"""What each type of node does when it begins and when one of its tasks ends; what several answers make."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from coterie.core.graph.model import BY_SKILL, GraphNode, JoinKind, NodeType
from coterie.core.graph.refs import UNWEIGHED_MAX
from coterie.core.graph.values import VALUE_BYTES_MAX, ValueFault
from coterie.core.nouns import NO_DATA, Data, Task, TaskState, evolve
from coterie.core.runs import instant, rounds
from coterie.core.runs.asking import asked, chosen
from coterie.core.runs.joins import Verdict, answered
from coterie.core.runs.run import NodeState, part_key
from coterie.core.runs.scope import described, inline, listed
from coterie.core.runs.tasks import begin_run, begin_task, error_of, input_of, parts_of

if TYPE_CHECKING:
    from coterie.core.runs.walk import Walk

WITHOUT_TASKS = frozenset(
    {NodeType.CONDITION, NodeType.SWITCH, NodeType.WAIT, NodeType.TIMER, NodeType.APPROVAL}
)

TOO_LARGE_WORK = (UNWEIGHED_MAX * VALUE_BYTES_MAX) >> 10  # KiB, as `walk.WORK_MAX`


def begin(walk: Walk, node: GraphNode) -> None:
    """Its dependencies and its condition are satisfied, and there is room."""
    walk.put(evolve(walk.record_of(node), state=NodeState.RUNNING, since_ms=walk.moment.at_ms))
    try:
        _BEGIN.get(node.type, _begin_tasks)(walk, node)
    except ValueFault as fault:
        _cannot(walk, node, fault)


def begin_more(walk: Walk, node: GraphNode) -> None:
    """One more task of a node that has some: see book.is_hungry."""
    try:
        if node.type is NodeType.MAP:
            rounds.begin_item(walk, node)
        elif node.type is NodeType.LOOP:
            rounds.begin_iteration(walk, node)
        else:
            _weigh(walk, node)
    except ValueFault as fault:
        _cannot(walk, node, fault)


def part_ended(walk: Walk, node: GraphNode, task: Task, place: int) -> None:
    """One of its tasks has ended. The record says so already."""
    try:
        if task.state is TaskState.SUCCEEDED:
            _PART.get(node.type, _answer)(walk, node, task, place)
        else:
            _part_failed(walk, node, task)
    except ValueFault as fault:
        _cannot(walk, node, fault)


def _cannot(walk: Walk, node: GraphNode, fault: ValueFault) -> None:
    """A value of it cannot be had. To find that one is too large may take as long as to make the largest."""
    if fault.code == "VALUE_TOO_LARGE":
        walk.state.run_work += TOO_LARGE_WORK
    walk.cancel_live(node.node_id, "another part of its node failed")
    walk.fail(node, fault.code, fault.text)


def _begin_tasks(walk: Walk, node: GraphNode) -> None:
    """One task, or one of each agent whose answer an earlier run has not left."""
    voices = node.agents or ("",)
    record = walk.put(evolve(walk.run.nodes[node.node_id], total=len(voices)))
    known = _left(walk, node) if len(voices) > 1 else set()
    if known:
        walk.put(evolve(record, issued=len(voices), succeeded=len(known)))
        if _weigh(walk, node):
            return
    payload = input_of(walk, node)
    if node.type is NodeType.AGENT:
        payload = asked(node, payload, walk.meter)
    for place, agent in enumerate(voices):
        if place not in known:
            begin_task(walk, node, place, payload, agent)


def _left(walk: Walk, node: GraphNode) -> set[int]:
    """Places of the agents that answered in an earlier run."""
    keys = enumerate(part_key(node.node_id, place) for place in range(len(node.agents)))
    return {place for place, key in keys if walk.steps.find(key) is not None}


def _answer(walk: Walk, node: GraphNode, task: Task, place: int) -> None:
    """One agent of perhaps several has answered, or the judge."""
    record = walk.run.nodes[node.node_id]
    if record.total <= 1:
        walk.succeed(node, task.result)
        return
    if place >= record.total:
        walk.succeed(node, chosen(task.result, _answers(walk, node), walk.meter))
        return
    record = walk.put(evolve(record, succeeded=record.succeeded + 1))
    if walk.keep(part_key(node.node_id, place), task.result):
        _weigh(walk, node)


def _weigh(walk: Walk, node: GraphNode) -> bool:
    """Whether the answers there are decide the node; then they have."""
    record = walk.run.nodes[node.node_id]
    verdict = answered(node.join, record.total, record.succeeded, record.failed)
    if verdict is Verdict.SKIP:
        walk.cancel_live(node.node_id, "too many of the other agents failed")
        ended = NodeState.CANCELLED if walk.is_ending else NodeState.FAILED
        walk.fail(node, "TOO_FEW_ANSWERS", f"{record.failed} of {record.total} agents failed", ended)
    elif verdict is Verdict.RUN:
        walk.cancel_live(node.node_id, "enough other agents have answered")
        found = _answers(walk, node)
        if node.join.kind is JoinKind.JUDGE:
            _judge(walk, node, found)
        elif node.join.kind is JoinKind.FIRST:
            walk.succeed(node, found[0])
        else:
            walk.succeed(node, inline(listed(found, walk.meter), walk.meter))
    return verdict is not Verdict.WAIT


def _answers(walk: Walk, node: GraphNode) -> list[Data]:
    return parts_of(walk, node)[: walk.run.nodes[node.node_id].total]


def _judge(walk: Walk, node: GraphNode, answers: list[Data]) -> None:
    """One more task chooses; while the run is paused it has to wait."""
    if not walk.may_begin:
        return
    given = {
        "answers": listed(answers, walk.meter),
        "input": described(input_of(walk, node), walk.meter),
    }
    begin_task(walk, node, len(node.agents), inline(given, walk.meter), skill=node.judge or "llm")


def _part_failed(walk: Walk, node: GraphNode, task: Task) -> None:
    error = error_of(task)
    record = walk.run.nodes[node.node_id]
    record = walk.put(evolve(record, failed=record.failed + 1))
    if _cut_short(walk, node, task):  # a list without it would pass for the whole
        walk.fail(node, error.code, error.message, NodeState.CANCELLED)
    elif node.type is NodeType.MAP and node.on_item_failure == "skip":
        rounds.map_over(walk, node)
    elif node.type in BY_SKILL and record.total > 1 and record.issued <= record.total:
        _weigh(walk, node)
    else:
        walk.cancel_live(node.node_id, "another part of its node failed")
        ended = NodeState.CANCELLED if task.state is TaskState.CANCELLED else NodeState.FAILED
        walk.fail(node, error.code, error.message, ended)


def _cut_short(walk: Walk, node: GraphNode, task: Task) -> bool:
    """By the end of its run: cancelled with it or, as one of several, out of its time."""
    several = node.type is NodeType.MAP or walk.run.nodes[node.node_id].total > 1
    if several and walk.out_of_time():
        return task.state in (TaskState.CANCELLED, TaskState.TIMED_OUT)
    return walk.is_ending and task.state is TaskState.CANCELLED


def _sub_workflow(walk: Walk, node: GraphNode) -> None:
    walk.put(evolve(walk.run.nodes[node.node_id], total=1))
    begin_run(walk, node, 0, input_of(walk, node))


def _undo(walk: Walk, node: GraphNode) -> None:
    """A compensation knows what it is to undo."""
    walk.put(evolve(walk.run.nodes[node.node_id], total=1))
    step = walk.steps.find(node.compensates)
    if node.input:
        begin_task(walk, node, 0, input_of(walk, node))
        return
    done = described(step.result if step else NO_DATA, walk.meter)
    begin_task(walk, node, 0, inline({"undo": done}, walk.meter))


_BEGIN: dict[NodeType, Callable[[Walk, GraphNode], None]] = {
    NodeType.CONDITION: instant.condition,
    NodeType.SWITCH: instant.switch,
    NodeType.REDUCE: instant.reduce,
    NodeType.WAIT: instant.wait,
    NodeType.TIMER: instant.wait,
    NodeType.APPROVAL: instant.wait,
    NodeType.WORKFLOW: _sub_workflow,
    NodeType.LOOP: rounds.loop,
    NodeType.MAP: rounds.map_items,
    NodeType.COMPENSATE: _undo,
}
_PART: dict[NodeType, Callable[[Walk, GraphNode, Task, int], None]] = {
    NodeType.LOOP: rounds.iteration_ended,
    NodeType.MAP: rounds.item_ended,
}
