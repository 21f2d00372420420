"""Where the payload of a child comes from: its parent gives it, or says where it lies. What lies in a batch
of documents, or in results of other children, does not pass through the parent's process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from coterie.core.families import Family
from coterie.core.nouns import Data, TaskState
from coterie.node.large_json import LargeJson
from coterie.node.lines import Lines
from coterie.node.security.tickets import Tickets
from coterie.node.skill_calls import Run, refused

LOADED_AT_ONCE = 16  # results: each may have to come from another node
JOINED_BYTES_MAX = 64 * 1024 * 1024  # results in one payload

Item = TypeVar("Item")
Found = TypeVar("Found")


async def together(load: Callable[[Item], Coroutine[Any, Any, Found]], items: Sequence[Item]) -> list[Found]:
    """What `load` gives for each, in order, a few at a time. The first failure ends the others too."""
    found: list[Found] = []
    for start in range(0, len(items), LOADED_AT_ONCE):
        tasks = [asyncio.create_task(load(item)) for item in items[start : start + LOADED_AT_ONCE]]
        try:
            found += await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    return found


class Payloads:
    """Of the children of one call; a batch is read once for those that follow each other in it."""

    def __init__(self, run: Run, large: LargeJson) -> None:
        self._run, self._large = run, large
        self._batch_name = ""
        self._batch = Lines(b"", [])

    async def content(self, child: dict[str, Any]) -> bytes:
        """The payload of a child. Raises ApiError for what it cannot be."""
        if "line" in child:
            return await self._line(child["line"])
        if "results" in child:
            return await self._results(child["results"])
        payload = child.get("payload", "")
        if not isinstance(payload, str):
            raise refused("BAD_CHILD", "payload: a JSON text is expected")
        return payload.encode("utf-8", "surrogatepass")

    async def _line(self, source: Any) -> bytes:
        """One line of a blob."""
        try:
            sha256, size, number = str(source["sha256"]), int(source["size_bytes"]), int(source["line"])
            ticket = str(source["ticket"])
        except (TypeError, KeyError, ValueError) as error:
            raise refused("BAD_CHILD", "line: sha256, size_bytes, ticket and line are expected") from error
        if sha256 != self._batch_name:
            Tickets(lambda: self._run.state).check(self._run.task.tenant, sha256, ticket)
            self._batch = Lines(b"", [])  # large ones are not held together
            self._batch = await Lines.of(await self._run.load(Data(sha256=sha256, size_bytes=size)))
            self._batch_name = sha256
        if not 0 <= number < len(self._batch):
            raise refused("BAD_CHILD", f"line: {number} is not in 0..{len(self._batch) - 1}")
        return self._batch[number]

    async def _results(self, source: Any) -> bytes:
        """Results of ended children of this task, as a list, in an object."""
        try:
            group, indexes = str(source["group"]), [int(index) for index in source["indexes"]]
            select, into = source.get("select"), dict(source.get("into", {}))
        except (TypeError, KeyError, ValueError, OverflowError, AttributeError) as error:
            raise refused("BAD_CHILD", "results: group and indexes are expected") from error
        if select is not None and not isinstance(select, str):
            raise refused("BAD_CHILD", "results: select is a name")
        if len(set(indexes)) < len(indexes):
            raise refused("BAD_CHILD", "results: an index is there twice")
        family = self._run.state.families.get(self._run.task_id) or Family()
        places = family.group(group).places
        room = JOINED_BYTES_MAX

        async def one(index: int) -> bytes:
            nonlocal room
            result = await self._one(family, places, index, select)
            room -= len(result)
            if room < 0:
                raise refused("BAD_CHILD", f"results: together more than {JOINED_BYTES_MAX} bytes")
            return result

        results = await together(one, indexes)
        listed = json.dumps(str(source.get("as") or "results")).encode() + b":[" + b",".join(results) + b"]"
        rest = json.dumps(into, ensure_ascii=False, separators=(",", ":")).encode()
        return b"{" + listed + (b"," if into else b"") + rest[1:]

    async def _one(self, family: Family, places: list[int], index: int, select: str | None) -> bytes:
        end = family.end_of(places[index]) if 0 <= index < len(places) else None
        if end is None or end.state is not TaskState.SUCCEEDED:
            raise refused("BAD_CHILD", f"results: child {index} has no result")
        content = await self._run.load(end.result) or b"null"
        if select is None:
            return content
        return await self._large.part(content, select)
