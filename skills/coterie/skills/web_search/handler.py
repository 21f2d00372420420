"""Search the web, or a local index. See SKILL.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from coterie.skills import SkillContext
from coterie.skills.errors import BadInput
from coterie.skills.outbound import NotAllowed
from coterie.skills.shipped import permissions_of, settings_of
from coterie.skills.web_search import engines, local
from coterie.skills.web_search.request import Engine, SearchRequest, SearchSettings


async def run(ctx: SkillContext, input: SearchRequest) -> dict[str, Any]:
    """Raises BadInput, BadSettings, NotAllowed, and the errors of `engines` and `local`."""
    name, engine = _engine(settings_of(ctx, "web-search", SearchSettings), input.engine)
    if engine.kind == "local":
        return {"engine": name, **await _local(ctx, Path(engine.path), input)}
    if input.operation != "search":
        raise BadInput(
            f"operation: {input.operation} is for an engine of kind local; {name} is {engine.kind}"
        )
    permissions = await permissions_of(ctx)
    if permissions is not None and not permissions["network_access"]:
        raise NotAllowed("the agent may not use the network (agent.permissions.network_access)")
    results = await ctx.call_in_thread(lambda: engines.search(engine, input))
    return {"engine": name, "results": results}


def _engine(settings: SearchSettings, name: str) -> tuple[str, Engine]:
    chosen = name or next(iter(settings.engines))
    if chosen not in settings.engines:
        raise BadInput(f"engine: there is no {chosen!r}; known: {', '.join(settings.engines)}")
    return chosen, settings.engines[chosen]


async def _local(ctx: SkillContext, path: Path, request: SearchRequest) -> dict[str, Any]:
    """A change may be made twice: the second finds it made."""
    if request.operation == "add":
        return {"documents": await ctx.effect("add", local.add, path, request.documents)}
    if request.operation == "remove":
        return {"documents": await ctx.effect("remove", local.remove, path, request.ids)}
    return {"results": await ctx.call_in_thread(lambda: local.search(path, request.query, request.limit))}
