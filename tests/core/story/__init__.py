"""A log that uses everything: every command is accepted in it, and every field of every command and of the
state holds something. `python -m tests.core.golden` writes it down.

Whoever adds a command or a field adds a line here: to the act in which the state fills, or, for what takes
away, to the one in which it empties."""

from __future__ import annotations

from tests.core.story import access, agents, coordination, decisions, llm, nodes, quotas, tasks, work
from tests.core.story.stage import Stage

FILLS = (
    nodes.found,
    quotas.limit,
    tasks.submit_all,
    tasks.run,
    tasks.end,
    tasks.have_children,
    decisions.decide,
    llm.spend,
    agents.apply,
    agents.publish,
    coordination.lock,
    coordination.keep,
    coordination.talk,
    coordination.schedule,
    access.grant,
    work.flow,
    nodes.trip,
    nodes.lose,
)
EMPTIES = (
    nodes.part,
    access.revoke,
    coordination.let_go,
    work.stop,
    agents.retire,
    llm.stop,
    quotas.lift,
    tasks.clear,
)


def told() -> tuple[Stage, int]:
    """All of it, and how many of its entries belong to the first act, after which the state is at its
    fullest."""
    stage = Stage()
    for scene in FILLS:
        scene(stage)
    fullest = stage.index
    for scene in EMPTIES:
        scene(stage)
    return stage, fullest
