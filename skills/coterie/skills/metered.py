"""Limits of the whole cluster on what skills do: so many calls of a service per time, on all nodes."""

from __future__ import annotations

from coterie.skills.link import Link

WAIT_S = 60.0


class Metered:
    """The part of a SkillContext that has to do with limits on calls."""

    _link: Link

    async def limit(self, name: str, cost: int = 1, *, timeout: float = WAIT_S) -> None:
        """Return when `cost` tokens of the limit `name` are taken: do then what they are for.

        The limit is one on calls (`coterie limits set NAME --calls --rate 100 --period 1m`); which of its
        counters is meant follows from the task's tenant, agent, type and key. Raises CallFailed (the attempt
        may be repeated) when they are not there within `timeout` seconds, CallRefused when there is no such
        limit or it never has so many."""
        await self._link.call("limits.take", {"limit": name, "cost": cost, "timeout": timeout})
