"""A workflow: nodes, what each stands on, and what happens when one of them fails."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

NODES_MAX = 10_000  # of a graph, those inside its bodies counted too
EDGES_MAX = 100_000
DEPTH_MAX = 4  # graphs inside graphs
GRAPH_BYTES_MAX = 3 << 20  # as a run carries it
PARALLEL_DEFAULT = 256  # tasks of a run that are live at once
PARALLEL_MAX = 10_000
WINDOW_DEFAULT = 64  # of a map: items under way at once
ITERATIONS_MAX = 10_000
ITEMS_MAX = 10_000
SEPARATOR = "~"  # in the ids of a run's tasks; no node id has one


class NodeType(StrEnum):
    """What a node does. The first five are carried out by a task that a skill runs."""

    TASK = "task"
    AGENT = "agent"
    LLM = "llm"
    TOOL = "tool"
    CODE = "code"
    CONDITION = "condition"
    SWITCH = "switch"
    LOOP = "loop"
    MAP = "map"
    REDUCE = "reduce"
    WAIT = "wait"
    TIMER = "timer"
    APPROVAL = "approval"
    WORKFLOW = "workflow"
    COMPENSATE = "compensate"


BY_SKILL = frozenset({NodeType.TASK, NodeType.AGENT, NodeType.LLM, NodeType.TOOL, NodeType.CODE})
BRANCHING = frozenset({NodeType.CONDITION, NodeType.SWITCH, NodeType.APPROVAL})
SKILL_OF = {NodeType.AGENT: "agent", NodeType.LLM: "llm", NodeType.CODE: "code"}  # where none is named


class JoinKind(StrEnum):
    """How many of what a node stands on must succeed: its agents if it has several, else its dependencies."""

    ALL = "all"
    ANY = "any"  # at least one, when all have ended
    FIRST = "first"  # as soon as one has succeeded
    QUORUM = "quorum"  # as soon as k have
    JUDGE = "llm-judge"  # of agents: all answer, then one more task chooses


class OnFailure(StrEnum):
    """What a run does when a node fails for good."""

    ABORT = "abort"  # end what runs, skip the rest
    CONTINUE = "continue"  # its dependants run without its value
    SKIP_DEPENDENTS = "skip-dependents"  # what does not stand on it goes on
    COMPENSATE = "compensate"  # abort, then undo what had succeeded, the last first


class Reducer(StrEnum):
    """What the state machine itself can make of a list."""

    LIST = "list"
    CONCAT = "concat"  # of lists, or of texts
    SUM = "sum"
    COUNT = "count"
    MIN = "min"
    MAX = "max"
    MERGE = "merge"  # of objects: later keys win
    VOTE = "vote"  # the value most often given; the earliest of equals


@dataclass(frozen=True, slots=True)
class Edge:
    """A dependency; `when`: only on that outcome of a branching node ("true", "false", a case)."""

    node: str
    when: str = ""


@dataclass(frozen=True, slots=True)
class Join:
    kind: JoinKind = JoinKind.ALL
    count: int = 0  # the k of a quorum


@dataclass(frozen=True, slots=True)
class Retry:
    """How often a node's task is tried; 0: the cluster's default."""

    attempts_max: int = 0
    backoff_initial_ms: int = 0
    backoff_max_ms: int = 0


@dataclass(frozen=True)  # no slots: see nouns.make, by which one is made
class GraphNode:
    """One node. Texts that are JSON may hold references, `{{ name.path }}`."""

    node_id: str
    type: NodeType = NodeType.TASK
    name: str = ""
    skill: str = ""
    agents: tuple[str, ...] = ()
    input: str = ""  # JSON with references; empty: the outputs of its dependencies
    depends_on: tuple[Edge, ...] = ()
    output_var: str = ""
    timeout_ms: int = 0  # of an attempt; of a wait or an approval; 0: none
    retry: Retry = Retry()
    critical: bool = False
    when: str = ""  # expression: run only if it holds
    join: Join = Join()
    expr: str = ""  # of a condition or switch; the `until` of a loop
    cases: tuple[str, ...] = ()
    max_iterations: int = 0
    body: Graph | None = None  # of a loop, map or sub-workflow
    over: str = ""  # JSON with references: the list of a map or reduce
    window: int = 0
    on_item_failure: str = "fail"  # or skip
    reducer: Reducer | None = None
    signal: str = ""
    duration_ms: int = 0  # of a timer
    compensates: str = ""
    judge: str = ""  # the skill that chooses among the answers of several agents
    priority: int = 0
    requires: tuple[str, ...] = ()  # skills that an agent works with

    @property
    def variable(self) -> str:
        """The name under which later nodes find its output."""
        return self.output_var or self.node_id

    @property
    def task_type(self) -> str:
        """The skill that runs its tasks; empty when none does."""
        return self.skill or SKILL_OF.get(self.type, "")


@dataclass(frozen=True, slots=True)
class Input:
    """Something a run is given."""

    name: str
    required: bool = True
    default: str = "null"  # JSON


@dataclass(frozen=True, slots=True)
class Graph:
    name: str = ""
    nodes: tuple[GraphNode, ...] = ()
    inputs: tuple[Input, ...] = ()
    open_inputs: bool = False  # it declares none: what no node provides is an input
    outputs: str = ""  # JSON with references; empty: the outputs of the nodes nobody stands on
    on_failure: OnFailure = OnFailure.ABORT
    max_parallel: int = PARALLEL_DEFAULT
    timeout_ms: int = 0
    entry_points: tuple[str, ...] = ()  # where the author says it begins: checked, not used
    execution_order: tuple[str, ...] = ()  # likewise


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with a workflow. `where` names the place, `text` what to do about it."""

    code: str
    where: str
    text: str
    cycle: tuple[str, ...] = ()  # the ids along a cycle, the first repeated at the end


class GraphError(Exception):
    """A workflow that cannot be run, with everything that is wrong with it."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("; ".join(f"{one.where}: {one.text}" for one in problems[:20]))
        self.problems = problems
