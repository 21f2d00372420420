"""Published skills for programs without asyncio: the same methods, blocking."""

from __future__ import annotations

from coterie.client import skills
from coterie.client.sync_queueing import Run


class Skills:
    """See `coterie.client.skills.Skills`."""

    def __init__(self, run: Run, inner: skills.Skills) -> None:
        self._run, self._inner = run, inner

    def publish(self, skill_id: str, bundle: bytes) -> skills.PublishedSkill:
        """See `coterie.client.skills.Skills.publish`."""
        return self._run(self._inner.publish(skill_id, bundle))

    def list(self) -> skills.SkillList:
        """See `coterie.client.skills.Skills.list`."""
        return self._run(self._inner.list())

    def get(self, skill_id: str) -> skills.PublishedSkill:
        """See `coterie.client.skills.Skills.get`."""
        return self._run(self._inner.get(skill_id))

    def approve(self, skill_id: str, revision: str) -> skills.PublishedSkill:
        """See `coterie.client.skills.Skills.approve`."""
        return self._run(self._inner.approve(skill_id, revision))

    def revoke(self, skill_id: str, revision: str) -> skills.PublishedSkill:
        """See `coterie.client.skills.Skills.revoke`."""
        return self._run(self._inner.revoke(skill_id, revision))

    def route(self, skill_id: str, revision: str, percent: int = 100) -> skills.PublishedSkill:
        """See `coterie.client.skills.Skills.route`."""
        return self._run(self._inner.route(skill_id, revision, percent))

    def roll_back(self, skill_id: str) -> skills.PublishedSkill:
        """See `coterie.client.skills.Skills.roll_back`."""
        return self._run(self._inner.roll_back(skill_id))

    def remove(self, skill_id: str, revision: str = "") -> None:
        """See `coterie.client.skills.Skills.remove`."""
        self._run(self._inner.remove(skill_id, revision))

    def set_policy(self, skill_id: str, policy: skills.SkillPolicy) -> skills.PublishedSkill:
        """See `coterie.client.skills.Skills.set_policy`."""
        return self._run(self._inner.set_policy(skill_id, policy))
