"""The judge: from the evidence to findings, and from findings to kept or broken promises. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from coterie.node.demo.evidence import Evidence, Execution, History


@dataclass(frozen=True, slots=True)
class Check:
    """One promise: what was counted, whether it held, and how it was found out."""

    name: str
    value: str
    kept: bool
    how: str


@dataclass(frozen=True, slots=True)
class StepFindings:
    """What the witness file and the journal of steps say together.

    recorded: steps the cluster has recorded. executed: lines of the witness.
    again: executions by a later attempt than the one whose result is recorded - the promise P3 forbids them.
    twice: further executions within the attempt that completed the step - forbidden as well.
    in_the_air: executions whose result was not recorded, because their node was killed meanwhile - allowed.
    unwitnessed: recorded steps that nobody executed.
    """

    recorded: int
    executed: int
    again: int
    twice: int
    in_the_air: int
    unwitnessed: int


@dataclass(frozen=True, slots=True)
class ReadbackFindings:
    """What one node shows of the tasks that were acknowledged."""

    missing: int
    not_succeeded: int
    listed_twice: int
    unknown: int


def judge_steps(executions: Iterable[Execution], recorded: Mapping[tuple[str, str], int]) -> StepFindings:
    """`recorded`: (task id, step) to the attempt that completed it."""
    counts = Counter((run.task_id, run.step, run.attempt) for run in executions)
    again = twice = in_the_air = 0
    for (task_id, step, attempt), count in counts.items():
        completed_by = recorded.get((task_id, step))
        if completed_by is None or attempt < completed_by:
            in_the_air += count
        elif attempt > completed_by:
            again += count
        else:
            twice += count - 1
    return StepFindings(
        recorded=len(recorded),
        executed=sum(counts.values()),
        again=again,
        twice=twice,
        in_the_air=in_the_air,
        unwitnessed=sum(1 for key, attempt in recorded.items() if (*key, attempt) not in counts),
    )


def first_completions(histories: Iterable[History]) -> dict[tuple[str, str], int]:
    """(task id, step) to the first attempt that completed it.

    The events are asked as well as the task, so that a record overwritten by a later attempt shows.
    """
    first: dict[tuple[str, str], int] = {}
    for history in histories:
        for step, attempt in (*history.completions, *history.steps.items()):
            key = (history.task_id, step)
            first[key] = min(attempt, first.get(key, attempt))
    return first


def contradictions(histories: Iterable[History]) -> int:
    """Tasks whose events do not tell of each of their steps exactly once."""
    return sum(1 for h in histories if sorted(h.completions) != sorted(h.steps.items()))


def judge_readback(acked: frozenset[str], rows: Iterable[tuple[str, str]]) -> ReadbackFindings:
    """`rows`: (task id, state) as one node lists them."""
    states: dict[str, str] = {}
    listed_twice = 0
    for task_id, state in rows:
        listed_twice += task_id in states
        states[task_id] = state
    return ReadbackFindings(
        missing=len(acked - states.keys()),
        not_succeeded=sum(1 for task_id in acked & states.keys() if states[task_id] != "SUCCEEDED"),
        listed_twice=listed_twice,
        unknown=len(states.keys() - acked),
    )


def judge(evidence: Evidence) -> list[Check]:
    """Every promise of the demo. The demo has succeeded when all are kept."""
    steps = judge_steps(evidence.executions, first_completions(evidence.histories))
    everything = evidence.acked | evidence.probes
    nodes = {name: judge_readback(everything, rows) for name, rows in evidence.per_node.items()}
    return [
        _acked(evidence, nodes),
        *_results(evidence, nodes),
        *_steps(evidence, steps),
        _same_state(evidence),
    ]


def _acked(evidence: Evidence, nodes: Mapping[str, ReadbackFindings]) -> Check:
    missing = {name: found.missing for name, found in nodes.items()}
    return Check(
        "acknowledged tasks missing",
        f"{sum(missing.values())} of {len(evidence.acked) + len(evidence.probes):,}",
        bool(nodes) and not any(missing.values()),
        f"listed by each of {len(nodes)} nodes for itself",
    )


def _results(evidence: Evidence, nodes: Mapping[str, ReadbackFindings]) -> list[Check]:
    unfinished = sum(found.not_succeeded for found in nodes.values())
    strangers = sum(found.unknown + found.listed_twice for found in nodes.values())
    endings = {history.task_id: history.terminal_events for history in evidence.histories}
    once = sum(1 for task_id in evidence.acked if endings.get(task_id) == 1)
    got = len(evidence.with_results & evidence.acked)
    total = len(evidence.acked)
    return [
        Check(
            "results received", f"{got:,} of {total:,}", got == total, "one for each acknowledged document"
        ),
        Check(
            "ended exactly once",
            f"{once:,} of {total:,}",
            once == total,
            "terminal events in each task's history",
        ),
        Check(
            "not succeeded on some node", f"{unfinished}", not unfinished, "state of each task on each node"
        ),
        Check(
            "duplicate tasks",
            f"{strangers}",
            not strangers,
            "tasks a node lists that nobody was acknowledged",
        ),
    ]


def _steps(evidence: Evidence, steps: StepFindings) -> list[Check]:
    unlike = contradictions(evidence.histories)
    return [
        Check(
            "steps recorded",
            f"{steps.recorded:,}",
            steps.recorded > 0 and not steps.unwitnessed and not unlike,
            f"{steps.executed:,} executions in the witness file; {steps.unwitnessed} recorded but not in it; "
            f"{unlike} tasks whose events differ",
        ),
        Check(
            "steps run again after completion",
            f"{steps.again + steps.twice}",
            not steps.again + steps.twice and not evidence.damaged_lines,
            "executions by a later attempt than the recorded one, or twice in one attempt",
        ),
        Check(
            "steps in the air at a kill",
            f"{steps.in_the_air}",
            True,
            "executed, but their node died before the result was recorded; run once more, as they must be",
        ),
    ]


def _same_state(evidence: Evidence) -> Check:
    distinct = set(evidence.hashes.values())
    return Check(
        "states of the nodes that differ",
        f"{max(0, len(distinct) - 1)}",
        len(distinct) == 1,
        "hash of the replicated state at the same log index",
    )
