"""Maps and reductions as child tasks; the documents and results do not pass through this process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from coterie.skills import SkillContext, jsonio
from coterie.skills.children import CHILDREN_MAX, FanOut, Standing
from coterie.skills.errors import NonRetryable, TaskFailed
from coterie.skills.map_reduce.plan import Plan, read_plan

MAP_SHARE = 90.0  # percent of the progress
FAILED_LINES_MAX = 1_000  # told to a reduction


async def run(ctx: SkillContext, input: Any) -> dict[str, Any]:
    """See SKILL.md. Raises BadInput, and NonRetryable TOO_MANY_FAILED when more maps failed than may."""
    plan = read_plan(input)
    maps = FanOut(ctx._link, "map", plan.count, plan.window, plan.stop_after)
    maps.on_change = lambda now: _progress(ctx, plan, now)
    try:
        await maps.run(plan.mapper)
    except TaskFailed as error:
        raise _too_many(plan, maps, error) from error
    failed = [_failure(place, end) for place, end in await _failures(maps)]
    result = await _reduced(ctx, plan, maps, failed)
    await ctx.progress(100, f"{plan.count} documents, {len(failed)} without result")
    return {"result": result, "documents": plan.count, "failed": failed}


def _progress(ctx: SkillContext, plan: Plan, now: Standing) -> None:
    ended = now.begun - now.open
    text = f"{ended} of {plan.count} mapped" + (f", {now.failed} failed" if now.failed else "")
    ctx._link.report_progress(MAP_SHARE * ended / plan.count, text)


def _too_many(plan: Plan, maps: FanOut, first: TaskFailed) -> NonRetryable:
    failed, allowed = maps.standing.failed, plan.stop_after - 1
    codes = ", ".join(f"{count} with {code}" for code, count in sorted(maps.codes.items()))
    text = f"{failed} of {plan.count} maps failed, {allowed} may; {codes}; the first: {first}"
    return NonRetryable(text, code="TOO_MANY_FAILED")


async def _failures(maps: FanOut) -> list[tuple[int, dict[str, Any]]]:
    if not maps.standing.failed:
        return []
    ends = [end async for end in maps.ends("failures")]
    return [(place, end) for place, end in enumerate(ends) if "error" in end]


def _failure(place: int, end: dict[str, Any]) -> dict[str, Any]:
    return {"document": place, "task": end["task_id"], "state": end["state"], **end["error"]}


async def _reduced(ctx: SkillContext, plan: Plan, maps: FanOut, failed: Sequence[dict[str, Any]]) -> Any:
    lost = {failure["document"] for failure in failed}
    mapped = [place for place in range(plan.count) if place not in lost]
    lines = [f"document {one['document']}: {one['code']}: {one['message']}" for one in failed]
    extra = {**plan.reduce_input, **({"failed": lines[:FAILED_LINES_MAX]} if lines else {})}
    if not plan.reduce:
        return [jsonio.decode(end["result"].encode()) async for end in maps.ends() if "result" in end]
    reduce = _Reduce(ctx, plan, extra)
    if plan.reducer == "keyed":
        return await reduce.keyed(maps)
    if plan.reducer == "tree":
        return await reduce.tree(mapped)
    return await reduce.one("reduce", "map", mapped)


class _Reduce:
    """The reductions of one run. The first that fails ends the whole."""

    def __init__(self, ctx: SkillContext, plan: Plan, extra: dict[str, Any]) -> None:
        self._ctx, self._plan, self._extra = ctx, plan, extra

    async def one(self, name: str, group: str, places: Sequence[int]) -> Any:
        return (await self._all(name, [self._child(name, group, places)]))[0]

    async def keyed(self, maps: FanOut) -> dict[str, Any]:
        places: dict[str, list[int]] = {}
        place = -1
        async for end in maps.ends("keys"):
            place += 1
            if "error" in end:
                continue
            keys = jsonio.decode(end["result"].encode())
            if keys is None:
                raise NonRetryable(
                    f"the result of map {place} is no object; a keyed reduction needs one of each"
                )
            for key in keys:
                places.setdefault(key, []).append(place)
        keys = sorted(places)
        if len(keys) > CHILDREN_MAX - self._plan.count:
            raise NonRetryable(
                f"{len(keys)} keys and {self._plan.count} maps, {CHILDREN_MAX} together may be; use a tree"
            )
        children = [
            self._child(f"k{number}", "map", places[key], select=key, key=key)
            for number, key in enumerate(keys)
        ]
        return dict(zip(keys, await self._all("keyed", children), strict=True))

    async def tree(self, places: Sequence[int]) -> Any:
        group, level = "map", 0
        while True:
            level += 1
            parts = [places[at : at + self._plan.fan_in] for at in range(0, len(places), self._plan.fan_in)]
            name = f"tree{level}"
            if len(parts) <= 1:
                return await self.one(name, group, places)
            children = [
                self._child(f"{name}.{at}", group, part, level=level) for at, part in enumerate(parts)
            ]
            await self._run(name, children)
            group, places = name, range(len(parts))

    def _child(self, name: str, group: str, places: Sequence[int], **more: Any) -> dict[str, Any]:
        select = more.pop("select", None)
        into = {**self._extra, **more}
        results = {"group": group, "indexes": list(places), "into": into, "as": self._plan.results_as}
        if select is not None:
            results["select"] = select
        options = dict(self._plan.reduce_options)
        return {"name": name, "type": self._plan.reduce, "options": options, "results": results}

    async def _run(self, group: str, children: Sequence[dict[str, Any]]) -> FanOut:
        fan = FanOut(self._ctx._link, group, len(children), self._plan.window, 1)
        await fan.run(lambda place: children[place])
        return fan

    async def _all(self, group: str, children: Sequence[dict[str, Any]]) -> list[Any]:
        fan = await self._run(group, children)
        return [jsonio.decode(end["result"].encode()) async for end in fan.ends()]
