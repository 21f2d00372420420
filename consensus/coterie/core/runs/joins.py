"""When a node may run, by how what it stands on has ended; when several tasks of a node are enough."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from coterie.core.graph.model import Join, JoinKind, OnFailure
from coterie.core.runs.run import NodeRun, NodeState


class Verdict(Enum):
    WAIT = 0
    RUN = 1
    SKIP = 2


@dataclass(slots=True)
class Tally:
    """Dependencies of one node, by how they have ended."""

    open: int = 0
    taken: int = 0
    untaken: int = 0  # skipped, or another branch was
    failed: int = 0


def count(tally: Tally, when: str, dependency: NodeRun, on_failure: OnFailure) -> None:
    """One dependency has ended; `when` is the outcome that the edge is for."""
    tally.open -= 1
    failed = dependency.state in (NodeState.FAILED, NodeState.CANCELLED)
    if failed and not (on_failure is OnFailure.CONTINUE and not when):
        tally.failed += 1
    elif dependency.state is NodeState.SKIPPED or (when and when != dependency.outcome):
        tally.untaken += 1
    else:
        tally.taken += 1


def decide(join: Join, tally: Tally, looks_at_ends: bool) -> Verdict:
    """`looks_at_ends`: its condition asks how its dependencies ended, and decides alone when all have."""
    if looks_at_ends:
        return Verdict.WAIT if tally.open else Verdict.RUN
    wanted, lost = 0, tally.untaken + tally.failed
    match join.kind:
        case JoinKind.ANY:
            if tally.open:
                return Verdict.WAIT
            return Verdict.RUN if tally.taken else Verdict.SKIP
        case JoinKind.FIRST:
            wanted = 1
        case JoinKind.QUORUM:
            wanted = join.count
        case _:
            wanted = tally.open + tally.taken + lost
    if tally.taken >= wanted:
        return Verdict.RUN
    return Verdict.SKIP if tally.taken + tally.open < wanted else Verdict.WAIT


def answered(join: Join, total: int, succeeded: int, failed: int) -> Verdict:
    """Whether the answers of several agents are enough (RUN), can never be (SKIP), or not yet."""
    tally = Tally(total - succeeded - failed, succeeded, 0, failed)
    if join.kind is JoinKind.JUDGE:
        return decide(Join(JoinKind.ANY), tally, False)
    return decide(join, tally, False)
