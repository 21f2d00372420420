"""ctx.add_nodes: a node of a workflow's run plans what comes after it."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from coterie.skills.errors import CallRefused
from coterie.skills.link import Link

Nodes = Mapping[str, Any] | str
"""By their ids, as under `nodes:` in a workflow's file; or the text of such a file."""


class Growing:
    """What a context offers to those who run as a node of a workflow."""

    _link: Link

    def step(self, name: str, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
        raise NotImplementedError

    async def add_nodes(self, nodes: Nodes, *, name: str = "add_nodes") -> list[str]:
        """Await this: add nodes to the run of which this task is a node; the ids of those that were added.

        They may stand on the nodes that are there, this one too, and are checked as the first plan was:
        skills, references, cycles, all that is wrong at once. A recorded step; asked twice it adds once.
        At most 500 nodes and 128 KiB at once; for more, add several times (with a `name` each) or use a map.
        Raises CallRefused (NOT_IN_A_RUN, CYCLE, TOO_LARGE …), ValueError, and as `step` does."""
        added: list[str] = await self.step(name, self._grow, _text(nodes))
        return added

    async def offer_nodes(self, nodes: Nodes, agents: list[str], *, name: str) -> dict[str, Any]:
        """The same for the agent loop, where a refusal is recorded too: {"added"} or {"error"}."""
        found: dict[str, Any] = await self.step(name, self._offer, _text(nodes), agents)
        return found

    async def _grow(self, text: str, agents: list[str] | None = None) -> list[str]:
        answer = await self._link.call("run.grow", {"nodes": text, "agents": agents or []})
        added: list[str] = answer["added"]
        return added

    async def _offer(self, text: str, agents: list[str]) -> dict[str, Any]:
        try:
            return {"added": await self._grow(text, agents)}
        except CallRefused as error:
            return {"error": f"{error.code}: {error}"}


def _text(nodes: Nodes) -> str:
    if isinstance(nodes, str):
        return nodes
    if not isinstance(nodes, Mapping) or not nodes:
        raise ValueError(f"nodes: {nodes!r} is not a map of nodes by their ids, nor the text of a workflow")
    return json.dumps({"nodes": dict(nodes)})
