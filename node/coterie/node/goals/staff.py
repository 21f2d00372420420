"""Who can be chosen for the tasks of a plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from coterie.core.bidding import Bid, Candidate, Selection, bids
from coterie.core.state import ClusterState
from coterie.node.config import NodeSettings
from coterie.node.goals.candidates import Definitions, Load, candidates
from coterie.node.goals.catalogue import Local, skill_names

LABELS = 10  # of an agent, about


@dataclass(frozen=True, slots=True)
class Staff:
    """Who can be chosen. `skills`: those that a plan may name."""

    skills: Sequence[str]
    candidates: Sequence[Candidate]
    selection: Selection

    def bids(self, wanted: Sequence[str], among: Sequence[str] = ()) -> list[Bid]:
        """Of all agents, or of some."""
        asked = [one for one in self.candidates if not among or one.agent_id in among]
        return bids(wanted, asked, self.selection)

    def effort(self, awards: int, wanted: int) -> int:
        """How much work so many awards are, with so many wants in all, as if it were characters to read."""
        return len(self.candidates) * LABELS * (awards + wanted)


async def staff_of(
    settings: NodeSettings, state: ClusterState, local: Local, known: Definitions, load: Load
) -> Staff:
    """Who can be chosen in this cluster, now."""
    goals = settings.goals
    found = await candidates(state, load, known)
    return Staff(skill_names(state, local, goals.skills), found, Selection(goals.selection))
