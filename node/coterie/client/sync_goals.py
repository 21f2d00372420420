"""Requests in words for programs without asyncio: the same methods, blocking."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Unpack

from coterie.client import goals, job
from coterie.client.spec import TaskOptions
from coterie.client.sync_queueing import Run
from coterie.client.workflow import Workflow


class Goals:
    """See `coterie.client.goals.Goals`."""

    def __init__(self, run: Run, inner: goals.Goals, made: Callable[[job.Job], Any]) -> None:
        self._run, self._inner, self._made = run, inner, made

    def submit(
        self,
        goal: str = "",
        *,
        context: Any = None,
        rule: str = "",
        aggregate: str = "",
        approve: bool | None = None,
        plan_only: bool = False,
        **options: Unpack[TaskOptions],
    ) -> Any:
        """See `coterie.client.goals.Goals.submit`; returns a blocking Job."""
        work = self._inner.submit(
            goal,
            context=context,
            rule=rule,
            aggregate=aggregate,
            approve=approve,
            plan_only=plan_only,
            **options,
        )
        return self._made(self._run(work))

    def mend(
        self,
        workflow: Workflow | str,
        inputs: Mapping[str, Any] | None = None,
        *,
        aggregate: str = "",
        approve: bool | None = None,
        plan_only: bool = False,
        **options: Unpack[TaskOptions],
    ) -> Any:
        """See `coterie.client.goals.Goals.mend`; returns a blocking Job."""
        work = self._inner.mend(
            workflow, inputs, aggregate=aggregate, approve=approve, plan_only=plan_only, **options
        )
        return self._made(self._run(work))

    def route(self, goal: str) -> goals.GoalRoute:
        """See `coterie.client.goals.Goals.route`."""
        return self._run(self._inner.route(goal))
