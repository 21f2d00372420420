"""Limits on calls, as a running skill asks for them (`ctx.limit`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from coterie.core.limits import Profile
from coterie.node.meters import Meters, Want
from coterie.node.skill_calls import Handlers, Run, refused

COST_MAX = 1_000_000_000
WAIT_S_MAX = 3_600.0


@dataclass(frozen=True, slots=True)
class LimitCalls:
    """The handlers; see coterie.skills.metered for the other end."""

    meters: Meters

    def handlers(self) -> Handlers:
        return {"limits.take": self.take}

    async def take(self, run: Run, args: Any) -> None:
        """For the tenant, agent, type and key of the task, whatever the skill says."""
        known = args if isinstance(args, dict) else {}
        name, cost, wait_s = known.get("limit"), known.get("cost"), known.get("timeout")
        if not isinstance(name, str) or type(cost) is not int or not 1 <= cost <= COST_MAX:
            raise refused("BAD_ARGUMENTS", f"limit {name!r}, cost {cost!r}: a name, and 1 to {COST_MAX}")
        if not isinstance(wait_s, int | float) or not 0 <= wait_s <= WAIT_S_MAX:
            raise refused("BAD_ARGUMENTS", f"timeout {wait_s!r}: seconds from 0 to {WAIT_S_MAX:g}")
        task = run.task
        profile = Profile(task.tenant, task.agent, task.type, task.key)
        await self.meters.take(Want(name, profile, cost), float(wait_s))
