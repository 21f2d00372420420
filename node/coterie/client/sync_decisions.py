"""Approvals and effects in doubt for programs without asyncio: the same methods, blocking."""

from __future__ import annotations

from typing import Any

from coterie.client import decisions
from coterie.client.models import TaskInfo
from coterie.client.sync_queueing import Run


class Approvals:
    """See `coterie.client.decisions.Approvals`."""

    def __init__(self, run: Run, inner: decisions.Approvals) -> None:
        self._run, self._inner = run, inner

    def list(self, *, decided: bool = False, limit: int = 50, task: str = "") -> decisions.ApprovalList:
        """See `coterie.client.decisions.Approvals.list`."""
        return self._run(self._inner.list(decided=decided, limit=limit, task=task))

    def approve(
        self, approval: decisions.Approval, comment: str = "", *, principal: str = ""
    ) -> decisions.Approval:
        """See `coterie.client.decisions.Approvals.approve`."""
        return self._run(self._inner.approve(approval, comment, principal=principal))

    def reject(
        self, approval: decisions.Approval, comment: str = "", *, principal: str = ""
    ) -> decisions.Approval:
        """See `coterie.client.decisions.Approvals.reject`."""
        return self._run(self._inner.reject(approval, comment, principal=principal))


class Effects:
    """See `coterie.client.decisions.Effects`."""

    def __init__(self, run: Run, inner: decisions.Effects) -> None:
        self._run, self._inner = run, inner

    def doubts(self, *, open_only: bool = False, limit: int = 50) -> decisions.DoubtList:
        """See `coterie.client.decisions.Effects.doubts`."""
        return self._run(self._inner.doubts(open_only=open_only, limit=limit))

    def done(
        self, task_id: str, step: str, result: Any, reason: str = "", *, principal: str = ""
    ) -> TaskInfo:
        """See `coterie.client.decisions.Effects.done`."""
        return self._run(self._inner.done(task_id, step, result, reason, principal=principal))

    def retry(self, task_id: str, step: str, reason: str = "", *, principal: str = "") -> TaskInfo:
        """See `coterie.client.decisions.Effects.retry`."""
        return self._run(self._inner.retry(task_id, step, reason, principal=principal))

    def fail(self, task_id: str, step: str, reason: str = "", *, principal: str = "") -> TaskInfo:
        """See `coterie.client.decisions.Effects.fail`."""
        return self._run(self._inner.fail(task_id, step, reason, principal=principal))
