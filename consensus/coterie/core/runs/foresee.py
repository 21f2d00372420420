"""Which tasks a run will make when a task of it succeeds, or when it begins: so that the one who reports the
end can propose where they go in the same entry. A guess, made before the entry is applied: what the state
machine then makes differently, it refuses to assign."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from coterie.core.graph.model import BY_SKILL, Graph, GraphNode, JoinKind, NodeType
from coterie.core.nouns import Constraints, Task, TaskId, TaskState
from coterie.core.runs.book import Book
from coterie.core.runs.run import Phase, Run, child_id, place_of
from coterie.core.state import ClusterState

LAST_OF = 10  # of so many dependencies one may be among the last, whichever ends first
PLAIN = frozenset({JoinKind.ALL, JoinKind.QUORUM, JoinKind.FIRST})  # decided by counting alone


class Foreseen(NamedTuple):
    """A task that does not exist yet: see routing.Placeable."""

    task_id: TaskId
    type: str
    constraints: Constraints


def after_success(state: ClusterState, task: Task) -> list[Foreseen]:
    """The tasks that its run begins when `task` has succeeded."""
    run, parent = state.runs.get(task.parent_id), state.tasks.get(task.parent_id)
    place = place_of(task.parent_id, task.task_id) if run is not None else None
    if run is None or parent is None or place is None or run.book is None or run.book.ready:
        return []  # what waits for room goes first
    node = run.book.nodes.get(place[0])
    if run.head.phase is not Phase.GOING or parent.state is not TaskState.WAITING or node is None:
        return []
    room = run.book.graph.max_parallel - run.book.live + 1
    return _known(state, run.head.run_id, _following(run, run.book, node), parent.constraints)[: max(0, room)]


def at_the_beginning(
    state: ClusterState, run_id: TaskId, graph: Graph, constraints: Constraints
) -> list[Foreseen]:
    """The tasks that a run of this graph begins with."""
    first = ((node, 0) for node in graph.nodes if not node.depends_on and _is_plain(node))
    return _known(state, run_id, first, constraints)[: graph.max_parallel]


def _known(
    state: ClusterState, run_id: TaskId, places: Iterator[tuple[GraphNode, int]], constraints: Constraints
) -> list[Foreseen]:
    """Skills that were published may be pinned to a revision when the task is made: no guess about these."""
    return [
        Foreseen(child_id(run_id, node.node_id, place), node.task_type, constraints)
        for node, place in places
        if node.task_type not in state.skillbook
    ]


def _following(run: Run, book: Book, node: GraphNode) -> Iterator[tuple[GraphNode, int]]:
    record = run.nodes.get(node.node_id)
    if record is None:
        return
    if node.type is NodeType.MAP and record.issued < record.total:
        if node.body is None:
            yield node, record.issued
        return
    alone = node.type in BY_SKILL and record.total <= 1
    if record.live > 1 or not (alone or node.type is NodeType.MAP):
        return
    for dependent, when in book.dependents.get(node.node_id, ()):
        one = book.nodes[dependent]
        if not when and dependent not in run.nodes and _is_plain(one) and _is_last(book, one):
            yield one, 0


def _is_plain(node: GraphNode) -> bool:
    """One task, whatever the values are."""
    return node.type in BY_SKILL and len(node.agents) <= 1 and not node.when and bool(node.task_type)


def _is_last(book: Book, node: GraphNode) -> bool:
    """Whether this is the end that the node still waits for. Of very many ends the last are reported at about
    the same time, by nodes that do not know of each other's: each of them may be the one."""
    tally, join = book.tallies[node.node_id], node.join
    if join.kind not in PLAIN:
        return False
    if join.kind is JoinKind.ALL:
        few = 1 + len(node.depends_on) // LAST_OF
        return tally.open <= few and not tally.untaken and not tally.failed
    return tally.taken + 1 == (join.count if join.kind is JoinKind.QUORUM else 1)
