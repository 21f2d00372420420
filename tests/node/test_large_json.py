"""Parts of large results are read elsewhere, and are the same parts."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

import pytest

from coterie.node import large_json
from coterie.node.errors import ApiError
from coterie.node.large_json import LargeJson
from coterie.skills import SkillContext
from coterie.skills.children import FanOut
from tests.node.family_bench import FamilyBench
from tests.skills.support import children_of, until

VALUES: list[Any] = [{}, {"a": 1, "b": {"a": 2}}, {"ä": 'ö"\n😀', "": None}, [1, {"a": 1}], "a", 7, None]


@pytest.fixture(params=["here", "elsewhere"])
def large(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> LargeJson:
    monkeypatch.setattr(large_json, "HERE_BYTES_MAX", 0 if request.param == "elsewhere" else 1 << 20)
    return LargeJson()


async def test_parts_of_objects(large: LargeJson) -> None:
    for value in VALUES:
        content = json.dumps(value).encode()
        keys, member, other = [
            json.loads(await large.part(content, name)) for name in (None, "a", "no \"such\nname'")
        ]
        is_object = isinstance(value, dict)
        assert keys == (list(value) if is_object else None)
        assert member == (value.get("a") if is_object else None)
        assert other is None


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[" * 100_000, b'{"a":"\\ud800"}'])
async def test_what_is_no_json_is_refused(large: LargeJson, content: bytes) -> None:
    with pytest.raises(ApiError, match="not JSON"):
        await large.part(content, "a")


async def test_no_more_processes_than_two_and_none_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_json, "HERE_BYTES_MAX", 0)
    before, large = children_of(os.getpid()), LargeJson()
    most = 0
    asked = [asyncio.create_task(large.part(b'{"a":%d}' % number, "a")) for number in range(5)]
    while not all(task.done() for task in asked):
        most = max(most, len(children_of(os.getpid()) - before))
        await asyncio.sleep(0.001)
    assert [task.result() for task in asked] == [b"%d" % number for number in range(5)]
    given_up = asyncio.create_task(large.part(b"{}", None))
    await until(lambda: bool(children_of(os.getpid()) - before), "it has a process")
    given_up.cancel()
    await asyncio.wait([given_up])
    assert most == 2 and children_of(os.getpid()) == before


async def test_large_results_of_children_are_read_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their keys, and what is taken of them into the payload of another child."""
    monkeypatch.setattr(large_json, "HERE_BYTES_MAX", 100)
    monkeypatch.setattr(large_json, "json_part", lambda content, name: pytest.fail("read on the loop"))
    bench = FamilyBench(lambda kind, payload: {"x": "y" * 200} if kind == "map" else payload)

    async def program(ctx: SkillContext) -> Any:
        maps, sums = FanOut(ctx._link, "g1", 2), FanOut(ctx._link, "g2", 1)
        await maps.run(lambda place: ctx.task("map", place, name=f"c{place}").asked())
        keys = [end["result"] async for end in maps.ends("keys")]
        results = {"group": "g1", "indexes": [0, 1], "select": "x"}
        await sums.run(lambda place: {"name": "sum", "type": "reduce", "options": {}, "results": results})
        return keys, [end["result"] async for end in sums.ends()]

    keys, [joined] = await bench.run(program)
    assert keys == ['["x"]'] * 2
    assert json.loads(joined) == {"results": ["y" * 200] * 2}
