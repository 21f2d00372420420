"""What is replicated of a run beside its task: how its nodes stand. Times are ms of the epoch; 0 is none."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

from coterie.core.graph.model import SEPARATOR, Graph
from coterie.core.nouns import TaskId, TaskState, Wait, WaitReason

if TYPE_CHECKING:
    from coterie.core.runs.book import Book

WORKFLOW = "workflow"  # the type of a run's task
RUN_ID_MAX = 56  # characters that the ids of its tasks begin with as they are
FOR_NODES = Wait(WaitReason.DEPENDENCY)


class NodeState(IntEnum):
    """Where a node stands; one that nothing has happened to yet has no record."""

    READY = 1  # held back by max_parallel, by a pause, or until its condition is decided: see UNDECIDED
    RUNNING = 2
    WAITING = 3  # for a time or a signal
    SUCCEEDED = 4
    FAILED = 5
    SKIPPED = 6
    CANCELLED = 7


ENDED = frozenset({NodeState.SUCCEEDED, NodeState.FAILED, NodeState.SKIPPED, NodeState.CANCELLED})


UNDECIDED = "UNDECIDED"  # the code of a node whose condition had to wait for the next entry


class Phase(IntEnum):
    NEW = 1
    GOING = 2
    ENDING = 3  # what runs is being cancelled
    UNDOING = 4  # what had succeeded is being compensated


@dataclass(frozen=True)  # no slots: see nouns.evolve
class NodeRun:
    run_id: TaskId
    node_id: str
    state: NodeState
    total: int = 0  # tasks it needs: agents, items, iterations at most
    issued: int = 0  # places of these that were begun, or taken over from an earlier run
    live: int = 0
    succeeded: int = 0
    failed: int = 0
    since_ms: int = 0
    until_ms: int = 0
    ended_at_ms: int = 0
    outcome: str = ""  # of a branching node
    code: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Taken:
    """How many signals of a name have been given to nodes."""

    name: str
    count: int


@dataclass(frozen=True)  # no slots: see nouns.evolve
class RunHead:
    run_id: TaskId
    graph: bytes  # JSON: see coterie.core.graph.reading
    grown: tuple[bytes, ...] = ()  # nodes that were added, likewise
    phase: Phase = Phase.NEW
    ends_as: TaskState = TaskState.SUCCEEDED
    code: str = ""
    message: str = ""
    taken: tuple[Taken, ...] = ()
    undo: tuple[str, ...] = ()  # compensations still to be run, the next one first


class Run:
    """One run. Mutable, because it may have thousands of nodes; its records are frozen."""

    __slots__ = ("book", "head", "nodes", "whole")

    def __init__(self, head: RunHead, nodes: dict[str, NodeRun] | None = None) -> None:
        self.head = head
        self.nodes = nodes if nodes is not None else {}
        self.book: Book | None = None  # derived, when first needed
        self.whole: tuple[tuple[bytes, ...], Graph] | None = (
            None  # likewise: what was added, and the graph with it
        )

    def view(self) -> Run:
        """As it is now; later changes do not show."""
        view = Run(self.head, dict(self.nodes))
        view.whole = self.whole
        return view

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Run) and self.head == other.head and self.nodes == other.nodes

    __hash__ = None  # type: ignore[assignment]


def child_id(run_id: TaskId, node_id: str, place: int) -> TaskId:
    """The id of a node's task: the same at every replay. Ids of runs inside of runs do not grow for ever."""
    prefix: str = run_id
    if len(prefix) > RUN_ID_MAX:
        prefix = "w" + hashlib.sha256(prefix.encode()).hexdigest()[:24]
    return TaskId(f"{prefix}{SEPARATOR}{node_id}{SEPARATOR}{place}")


def part_key(node_id: str, place: int) -> str:
    """The key of the step that holds what one of several tasks of a node gave."""
    return f"{node_id}{SEPARATOR}{place}"


def list_key(node_id: str) -> str:
    """The key of the step that holds the list a map goes over, where it could come out otherwise later."""
    return f"{node_id}{SEPARATOR}over"


def place_of(run_id: TaskId, task_id: TaskId) -> tuple[str, int] | None:
    """Node and place of a task of this run; None for any other child of it."""
    parts = task_id.rsplit(SEPARATOR, 2)
    if len(parts) != 3 or not parts[2].isdecimal() or len(parts[2]) > 9:
        return None
    node_id, place = parts[1], int(parts[2])
    return (node_id, place) if child_id(run_id, node_id, place) == task_id else None
