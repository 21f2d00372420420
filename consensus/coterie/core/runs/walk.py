"""What happens in a run: a node ends, what stands on it is decided, what is ready begins.

Everything here is called while one log entry is applied, by `follow_up.follow_up`."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from heapq import heappop, heappush
from typing import Any, TypeVar

from coterie.core.graph.evaluate import Meter, Scope, holds
from coterie.core.graph.model import GraphNode, Join, NodeType, OnFailure
from coterie.core.graph.values import ValueFault
from coterie.core.lifecycle import cancel_task, change_task
from coterie.core.nouns import NO_DATA, Data, Step, Task, TaskId, TaskState, Wait, evolve
from coterie.core.runs import endings, instant, parts
from coterie.core.runs.book import NO_STEPS, Book
from coterie.core.runs.joins import Verdict, count, decide
from coterie.core.runs.run import (
    ENDED,
    FOR_NODES,
    UNDECIDED,
    NodeRun,
    NodeState,
    Phase,
    Run,
    RunHead,
    child_id,
)
from coterie.core.runs.scope import NOTHING, RunScope
from coterie.core.state import ClusterState, Moment, held
from coterie.core.steplog import StepLog
from coterie.core.submit_rules import full

V = TypeVar("V")
STEP_OVERHEAD_BYTES = 200  # as of any step
PERCENT_X100 = 10_000
ALL = Join()  # of dependencies, where the join is one of agents
WORK_MAX = 20_000  # KiB of values made in one entry, by all its commands; what is left goes on in the next
BEGUN_WORK = 10  # what each node or task that is begun counts of that: so many KiB take about as long
STEPS_PER_WORK_BITS = 4  # so many steps of conditions, 16, take as long as one of these
BYTES_PER_WORK_BITS = 10
ROOM_WAIT_MS = 1_000  # a run for which the queue is full looks again after so long at least, ...
ROOM_WAIT_MAX_MS = 60_000  # ... and at most; in between the longer the more is queued, as others look too
ROOM_WAIT_MS_PER_QUEUED = 5


class Walk:
    """One visit to a live run."""

    def __init__(self, state: ClusterState, run_id: TaskId, moment: Moment) -> None:
        self.state, self.run_id, self.moment = state, run_id, moment
        self.run: Run = state.runs[run_id]
        if self.run.book is None:
            self.run.book = Book(self.run, self.task)
        self.book: Book = self.run.book
        self._todo: deque[str] = deque()
        self._has_moved = False  # something, in this visit
        self.meter = Meter()  # of this visit: what is read, written and weighed, whatever comes of it
        self._seen: set[str] = set()  # whose outputs it has looked at

    @property
    def task(self) -> Task:
        return self.state.tasks[self.run_id]

    @property
    def steps(self) -> StepLog:
        return self.state.steps.get(self.run_id) or NO_STEPS

    @property
    def is_over(self) -> bool:
        return self.run_id not in self.state.runs

    @property
    def may_begin(self) -> bool:
        """Whether nodes may be begun: not while it is paused, not when it is ending."""
        return self.run.head.phase is Phase.GOING and self.task.state is TaskState.WAITING

    @property
    def is_settled(self) -> bool:
        """Whether all its nodes have ended, and it may."""
        return self.may_begin and not self.book.unsettled

    @property
    def _waits_for_entry(self) -> bool:
        """Whether it could not be decided, ended, or undone further, because the entry had done enough."""
        if self.run.head.phase is Phase.UNDOING:
            return not self.book.live and self.task.state is TaskState.WAITING
        return self.is_settled or (self.may_begin and bool(self.book.undecided))

    @property
    def is_ending(self) -> bool:
        return self.run.head.phase is Phase.ENDING

    def head(self, **changes: object) -> RunHead:
        self.run.head = evolve(self.run.head, **changes)
        return self.run.head

    def scope(self, node: GraphNode | None = None, more: Mapping[str, Any] = NOTHING) -> RunScope:
        scope = RunScope(self.run, self.task, self.steps, more, self.meter, self._seen)
        scope.node = node
        return scope

    def counted(self, evaluate: Callable[[str, Scope, Meter], V], text: str, scope: Scope) -> V:
        """What an expression gives; the steps it takes are work of this entry. Raises ValueFault."""
        self.state.run_work += 1
        return evaluate(text, scope, self.meter)

    @property
    def metered(self) -> int:
        """What its meter tells, as work of this entry."""
        return (self.meter.steps >> STEPS_PER_WORK_BITS) + (self.meter.bytes >> BYTES_PER_WORK_BITS)

    @property
    def is_spent(self) -> bool:
        """Whether the entry has done enough."""
        return self.state.run_work + self.metered > WORK_MAX

    # --- what it is visited for

    def begin(self) -> None:
        """The first visit. Nodes that an earlier run completed have ended already."""
        self.head(phase=Phase.GOING)
        if self.steps:
            self._take_over_all()
        else:
            self._todo.extend(self.book.first)
        self.go_on()

    def _take_over_all(self) -> None:
        """What has ended already; then those may be decided of which not everything they stand on is open."""
        for node_id in self.book.nodes:
            step = self.steps.find(node_id)
            if step is not None:
                self._take_over(node_id, step.result)
        first, tallies = set(self.book.first), self.book.tallies
        self._todo.extend(node_id for node_id in self.book.nodes if node_id in first or node_id in tallies)

    def _take_over(self, node_id: str, result: Data) -> None:
        node = self.book.nodes[node_id]
        record = NodeRun(self.run_id, node_id, NodeState.SUCCEEDED, since_ms=self.moment.at_ms)
        outcome = instant.outcome_of(node, result, self.meter)
        self._ended(node, evolve(record, outcome=outcome, message="taken over from an earlier run"))

    def child_ended(self, task: Task, node_id: str, place: int) -> None:
        record = self.run.nodes.get(node_id)
        if record is None or place >= record.issued:
            return  # it is none of this run's own: see submit_rules
        self.book.live -= 1
        record = self.put(evolve(record, live=record.live - 1))
        if record.state is NodeState.RUNNING:
            parts.part_ended(self, self.book.nodes[node_id], task, place)
        self.go_on()

    def tick(self) -> None:
        """Its clock ran out: timers are over, waits have failed; or it had more to do than one entry may."""
        if self.run.head.phase is Phase.NEW:
            self.begin()
            return
        due = [name for name, until_ms in self.book.timers.items() if until_ms <= self.moment.at_ms]
        for name in sorted(due, key=self.book.order.__getitem__):
            node = self.book.nodes[name]
            if node.type is NodeType.TIMER:
                self.succeed(node, NO_DATA)
            else:
                self.fail(node, "WAIT_TIMEOUT", f"nothing came within {node.timeout_ms} ms")
        self.go_on()

    def revisit(self) -> None:
        """Something may go on: it was resumed, signalled, or nodes were added."""
        if self.run.head.phase is Phase.NEW:
            return
        instant.look_for_signals(self)
        self.go_on()

    def decide_all(self) -> None:
        """After nodes were added, some of which an earlier run may have completed."""
        if self.run.head.phase is Phase.NEW:
            return
        for name in self.book.nodes:
            step = self.steps.find(name) if name not in self.run.nodes else None
            if step is not None:
                self._take_over(name, step.result)
        self._todo.extend(name for name in self.book.nodes if name not in self.run.nodes)
        self.go_on()

    # --- nodes end

    def put(self, record: NodeRun) -> NodeRun:
        self.book.note(self.run.nodes.get(record.node_id), record)
        self.run.nodes[record.node_id] = record
        return record

    def record_of(self, node: GraphNode) -> NodeRun:
        known = self.run.nodes.get(node.node_id)
        return known or NodeRun(self.run_id, node.node_id, NodeState.READY, since_ms=self.moment.at_ms)

    def succeed(self, node: GraphNode, result: Data, outcome: str = "", message: str = "") -> None:
        if self.keep(node.node_id, result):
            record = evolve(self.record_of(node), state=NodeState.SUCCEEDED, outcome=outcome, message=message)
            self._ended(node, record)

    def fail(self, node: GraphNode, code: str, message: str, state: NodeState = NodeState.FAILED) -> None:
        record = evolve(self.record_of(node), state=state, code=code, message=message[:500])
        self._ended(node, record)
        detail = f"{node.node_id} {state.name}: {code} {record.message}"
        change_task(self.state, self.task, self.task, self.moment, "node", detail)
        graph = self.book.graph
        if self.run.head.phase is not Phase.GOING:
            return
        stops = graph.on_failure in (OnFailure.ABORT, OnFailure.COMPENSATE)
        if node.critical or (stops and not self.book.has_handler(node.node_id)):
            text = f"node {node.node_id} failed: {record.message}"
            ends_as = TaskState.TIMED_OUT if self.out_of_time() else TaskState.FAILED
            endings.begin_ending(self, ends_as, code, text)

    def out_of_time(self) -> bool:
        """Whether the deadline of the run is over."""
        deadline_ms = self.task.deadline_at_ms
        return 0 < deadline_ms <= self.moment.at_ms

    def skip(self, node: GraphNode, code: str, message: str) -> None:
        self._ended(node, evolve(self.record_of(node), state=NodeState.SKIPPED, code=code, message=message))

    def _ended(self, node: GraphNode, record: NodeRun) -> None:
        known = self.run.nodes.get(node.node_id)
        assert known is None or known.state not in ENDED, f"{node.node_id} has ended already"
        record = self.put(evolve(record, ended_at_ms=self.moment.at_ms, until_ms=0))
        book = self.book
        for look_up in (book.waiting, book.timers):
            look_up.pop(node.node_id, None)
        if node.type is NodeType.COMPENSATE:
            return
        book.unsettled -= 1
        for dependent, when in book.dependents.get(node.node_id, ()):
            count(book.tallies[dependent], when, record, book.graph.on_failure)
            self._todo.append(dependent)

    def keep(self, key: str, result: Data) -> bool:
        """As a step of the run's task; False when the run had to be given up because it holds too much."""
        task, policy = self.task, self.state.meta.policy
        if self.steps.find(key) is not None:
            return True  # of an undo, which is made anew: what it gave before stays
        more = held(result) + STEP_OVERHEAD_BYTES
        if task.step_count >= policy.steps_per_task_max or task.bytes_held + more > policy.task_bytes_max:
            text = f"it holds {task.step_count} results and {task.bytes_held} bytes, and no more is allowed"
            endings.begin_ending(self, TaskState.FAILED, "TASK_TOO_LARGE", text)
            return False
        steps = self.state.steps.get(self.run_id)
        if steps is None:
            steps = self.state.steps[self.run_id] = StepLog()
        steps.append(Step(key, 1, result, self.moment.at_ms))
        meta = self.state.meta
        self.state.meta = evolve(meta, steps_total=meta.steps_total + 1)
        done = len(self.book.nodes) - self.book.unsettled
        after = evolve(
            task,
            step_count=task.step_count + 1,
            bytes_held=task.bytes_held + more,
            percent_x100=PERCENT_X100 * done // max(1, len(self.book.nodes)),
        )
        change_task(self.state, task, after, self.moment, "step", key)
        return True

    # --- nodes begin

    def go_on(self) -> None:
        """Until nothing moves."""
        while not self.is_over:
            if self._todo:
                self._decide(self._todo.popleft())
            elif not (self._decide_next() or self._begin_next()):
                break
        if not self.is_over:
            endings.conclude(self)
        if not self.is_over:
            self._set_clock()

    def _decide(self, node_id: str) -> None:
        node = self.book.nodes[node_id]
        if node_id in self.run.nodes or node.type is NodeType.COMPENSATE:
            return
        if self.run.head.phase is not Phase.GOING:
            return
        tally = self.book.tallies[node_id]
        several = len(node.agents) > 1
        verdict = decide(ALL if several else node.join, tally, self.book.looks_at_ends(node))
        if verdict is Verdict.SKIP:
            failed = "what it stands on failed" if tally.failed else "its branch was not taken"
            self.skip(node, "DEPENDENCY_FAILED" if tally.failed else "NOT_TAKEN", failed)
        elif verdict is Verdict.RUN:
            self._admit(node)

    def _admit(self, node: GraphNode) -> None:
        """It is ready if its condition holds. When this entry has done enough, another will look at that."""
        at = self.book.order[node.node_id], node.node_id
        if node.when and self.is_spent:
            self.put(evolve(self.record_of(node), code=UNDECIDED, message="its condition is decided next"))
            heappush(self.book.undecided, at)
        elif self._wanted(node):
            self.put(evolve(self.record_of(node), code="", message=""))
            heappush(self.book.ready, at)

    def _decide_next(self) -> bool:
        """Decide one more of the conditions that had to wait, if it may be."""
        if not self.book.undecided or not self.may_begin or self.is_spent:
            return False
        self._admit(self.book.nodes[heappop(self.book.undecided)[1]])
        return True

    def _wanted(self, node: GraphNode) -> bool:
        """Whether its condition holds; when not, it is skipped, when it cannot be said, it fails."""
        if not node.when:
            return True
        self._has_moved = True
        try:
            wanted = self.counted(holds, node.when, self.scope(node))
        except ValueFault as fault:
            self.fail(node, fault.code, f"when: {fault.text}")
            return False
        if not wanted:
            self.skip(node, "NOT_WANTED", f"{node.when[:200]} is false")
        return wanted

    def _begin_next(self) -> bool:
        """Begin one more task or node, if it may be."""
        book = self.book
        if not self.may_begin or self.is_spent:
            return False
        first = book.nodes[book.ready[0][1]] if book.ready else None
        if first is not None and (first.type in parts.WITHOUT_TASKS or self._has_room()):
            heappop(book.ready)
            self.note_begun()
            parts.begin(self, first)
            return True
        hungry = book.hungry.first()
        if hungry is not None and self._has_room():
            self.note_begun()
            parts.begin_more(self, book.nodes[hungry[1]])
            return True
        return False

    def note_begun(self) -> None:
        self._has_moved = True
        self.state.run_work += BEGUN_WORK

    def _has_room(self) -> bool:
        """For one more task. One it may always have: else runs that fill the queue would wait for ever, each
        for tasks for which the others leave no room."""
        live = self.book.live
        if live >= self.book.graph.max_parallel:
            return False
        return not live or full(self.state, self.task.tenant, 0) is None

    def cancel_live(self, node_id: str, reason: str) -> None:
        """The tasks of one node that have not ended."""
        record = self.run.nodes[node_id]
        for place in range(record.issued) if record.live else ():
            child = self.state.tasks.get(child_id(self.run_id, node_id, place))
            if child is not None:
                cancel_task(self.state, child, reason, self.moment)

    def _set_clock(self) -> None:
        """The run's task is woken when the first of its nodes need it."""
        times = (*self.book.timers.values(), self._goes_on_at_ms())
        until_ms = min((at_ms for at_ms in times if at_ms), default=0)
        task = self.task
        if task.wait is None or task.wait.until_ms != until_ms:
            wait = Wait(FOR_NODES.reason, until_ms=until_ms)
            change_task(self.state, task, evolve(task, wait=wait), self.moment, "waits")

    def _goes_on_at_ms(self) -> int:
        """When it begins more, or ends, by itself, because the entry or the queue has no room for it now; 0:
        never."""
        more = self.may_begin and (self.book.ready or self.book.hungry)
        may_more = more and self.book.live < self.book.graph.max_parallel
        if not may_more and not self._waits_for_entry:
            return 0
        now_ms, set_ms = self.moment.at_ms, self.task.wait.until_ms if self.task.wait is not None else 0
        if self.is_spent:
            return set_ms if 0 < set_ms <= now_ms and not self._has_moved else now_ms  # it keeps its turn
        wait_ms = ROOM_WAIT_MS_PER_QUEUED * self.state.indexes.queued
        at_ms = now_ms + min(max(wait_ms, ROOM_WAIT_MS), ROOM_WAIT_MAX_MS)
        return set_ms if now_ms < set_ms < at_ms else at_ms
