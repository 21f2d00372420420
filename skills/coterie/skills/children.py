"""Child tasks: `ctx.task(...)` says what to run, `ctx.gather(...)` runs it and sleeps until it has ended.

A parent that waits for its children holds neither process nor slot: its run ends there, and a later attempt
runs the handler again, which asks for the same children and finds them. A child's id is its parent's and its
own name, so asking again gives the same child. Children of one gather are asked for a window at a time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from coterie.skills import jsonio
from coterie.skills.errors import DeterminismError, TaskFailed
from coterie.skills.link import Link

CHILDREN_MAX = 20_000
WINDOW = 64
WINDOW_MAX = 1_000
NAME_CHARS_MAX = 64
SPAWN_BYTES_MAX = 512 * 1024  # of one call to the node
SPAWN_CHILDREN_MAX = 256
PAYLOAD_BYTES_MAX = 900 * 1024
NAME_PUNCTUATION = "._-"

OnError = Literal["fail", "collect"]
Show = Literal["results", "keys", "failures"]


@dataclass(frozen=True, slots=True)
class Child:
    """A task that this one wants to run. Await it alone, or gather several."""

    name: str
    type: str
    payload: str  # a JSON text
    options: Mapping[str, Any] = field(default_factory=dict)
    gather: Callable[[Child], Coroutine[Any, Any, list[Any]]] | None = field(default=None, repr=False)

    def __await__(self) -> Generator[Any, None, Any]:
        return self._alone().__await__()

    async def _alone(self) -> Any:
        assert self.gather is not None, "made by ctx.task"
        return (await self.gather(self))[0]

    def asked(self) -> dict[str, Any]:
        """What the node is told."""
        return {
            "name": self.name,
            "type": self.type,
            "payload": self.payload,
            "options": self.options,
            "digest": self.digest(),
        }

    def digest(self) -> str:
        """Tells asking for the same again from asking for something else: 32 hex digits."""
        said = json.dumps([self.type, self.payload, self.options], sort_keys=True)
        return hashlib.sha256(said.encode("utf-8", "surrogatepass")).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a group of children is, as the node told it."""

    begun: int
    open: int
    failed: int
    full: bool = False  # the queue took no more for now
    chain: str = ""  # over the names and digests of those begun


def chain_of(known: Sequence[tuple[str, str]]) -> str:
    """One digest over names and digests of children, in their order."""
    chain = hashlib.sha256()
    for name, digest in known:
        chain.update(f"{name}\0{digest}\n".encode())
    return chain.hexdigest()[:32]


class Children:
    """The part of a SkillContext that has to do with children."""

    _link: Link
    _names: set[str]
    _gathers: int

    def _begin_children(self) -> None:
        self._names, self._gathers = set(), 0

    def task(self, type: str, payload: Any = None, *, name: str = "", **options: Any) -> Child:
        """A child task of that type (a skill), to be awaited or gathered; nothing has begun yet.

        `payload` is any JSON value. `name` becomes part of the child's id and must be unlike the others';
        without one, children are numbered in the order of these calls, so make them in the same order in
        every attempt. `options` are those of submitting: priority, timeout, deadline (seconds or "10m"),
        max_attempts, retry, labels, constraints, key, agent, start_delay, target_node. Where they are left
        out, priority and agent are the parent's; the deadline is never later than the parent's. Raises
        ValueError, NotJson, TooLarge."""
        number = str(len(self._names) + 1)
        given = _checked_name(name) if name else number
        if given in self._names:
            raise ValueError(f"name: {given!r} is that of another child; give each child its own")
        self._names.add(given)
        text = jsonio.encode(payload, f"the payload of child {given!r}", PAYLOAD_BYTES_MAX).decode()
        return Child(given, type, text, options, self.gather)

    def gather(
        self, *children: Child, on_error: OnError = "fail", window: int = WINDOW
    ) -> Coroutine[Any, Any, list[Any]]:
        """Run these children and return their results in that order.

        At most `window` of them are open at once. on_error="fail": the first child that ends without success
        raises TaskFailed, and what is still open of this gather is cancelled; "collect": each such child
        leaves its TaskFailed in the list. Raises ValueError, DeterminismError (an earlier attempt asked for
        other children here), CallRefused (what the cluster does not take: an unknown skill, a bad option)."""
        if on_error not in ("fail", "collect"):
            raise ValueError(f"on_error: {on_error!r} is neither 'fail' nor 'collect'")
        self._gathers += 1
        limit = 1 if on_error == "fail" else 0
        fan = FanOut(self._link, f"g{self._gathers}", len(children), window, limit)
        return self._gather(fan, children, on_error)

    async def _gather(self, fan: FanOut, children: Sequence[Child], on_error: OnError) -> list[Any]:
        await fan.run(lambda place: children[place].asked(), children)
        results = [_result(end) async for end in fan.ends()]
        if on_error == "fail":
            for result in results:
                if isinstance(result, TaskFailed):
                    raise result
        return results


class FanOut:
    """Many children of one kind, a window at a time. `stop_after`: that many failures end it; 0: none do."""

    def __init__(self, link: Link, group: str, count: int, window: int = WINDOW, stop_after: int = 0) -> None:
        if not 0 <= count <= CHILDREN_MAX:
            raise ValueError(f"{count} children; one gather takes at most {CHILDREN_MAX}")
        if isinstance(window, bool) or not isinstance(window, int) or not 1 <= window <= WINDOW_MAX:
            raise ValueError(f"window: {window!r} is not a whole number from 1 to {WINDOW_MAX}")
        self._link, self._group, self._count = link, group, count
        self._window, self._stop_after = window, stop_after
        self.standing = Standing(0, 0, 0)
        self.on_change: Callable[[Standing], None] = lambda standing: None
        self.codes: dict[str, int] = {}  # once too many have failed: how many with which code

    async def run(self, asked: Callable[[int], dict[str, Any]], known: Sequence[Child] = ()) -> None:
        """Until all have ended, or too many have failed; then the others are cancelled and TaskFailed is
        raised. `known`: the children, to be compared with those that an earlier attempt asked for."""
        if not self._count:
            return
        now = self.standing = await self._ask("look")
        self.on_change(now)
        await self._compare(now, known)
        while not self._too_many_failed(now):
            if now.begun < self._count and now.open < self._window and not now.full:
                now = await self._ask("spawn", children=self._next(now, asked))
            elif now.begun == self._count and not now.open:
                break
            elif now.full and not now.open:
                await self._ask("pause")  # the parent goes too: others need the room to get on
                now = await self._ask("look")
            else:
                now = await self._ask("wait", seen=self._enough(now), stop_after=self._stop_after)
            self.standing = now
            self.on_change(now)
        if self._too_many_failed(now):
            await self._link.call("children.cancel", {"group": self._group})
            first = await self._link.call("children.first_failed", {"group": self._group})
            self.codes = first.get("codes", {})
            raise _failure(first)

    async def ends(self, show: Show = "results") -> AsyncGenerator[dict[str, Any], None]:
        """How each child ended, in their order: its `result` as a JSON text, or its `error`. `show`: "keys":
        only the keys of results that are objects; "failures": no results."""
        place = 0
        while place < self._count:
            args = {"group": self._group, "from": place, "show": show}
            ends = await self._link.call("children.ends", args)
            for end in ends:
                yield end
            place += len(ends)
            if not ends:
                return

    def _too_many_failed(self, now: Standing) -> bool:
        return 0 < self._stop_after <= now.failed

    def _enough(self, now: Standing) -> int:
        """How many may still be open when the parent is woken: half a window, while more are to be begun."""
        if now.begun == self._count:
            return 0
        return now.open - 1 if now.full else self._window // 2

    def _next(self, now: Standing, asked: Callable[[int], dict[str, Any]]) -> list[dict[str, Any]]:
        wanted = min(self._count - now.begun, self._window - now.open, SPAWN_CHILDREN_MAX)
        children: list[dict[str, Any]] = []
        size = 0
        for place in range(now.begun, now.begun + wanted):
            child = asked(place)
            size += len(child.get("payload", "").encode())
            if children and size > SPAWN_BYTES_MAX:
                break
            children.append(child)
        return children

    async def _ask(self, what: str, **args: Any) -> Standing:
        return Standing(**await self._link.call(f"children.{what}", {"group": self._group, **args}))

    async def _compare(self, now: Standing, known: Sequence[Child]) -> None:
        mine = [(child.name, child.digest()) for child in known[: now.begun]]
        if not known or (now.begun <= len(known) and chain_of(mine) == now.chain):
            return
        theirs = await self._link.call("children.known", {"group": self._group})
        for place, (name, digest) in enumerate(theirs):
            if place >= len(mine):
                raise DeterminismError.of_children(place, f"no child {name!r}", f"child {name!r}")
            if mine[place][0] != name:
                raise DeterminismError.of_children(place, f"child {mine[place][0]!r}", f"child {name!r}")
            if mine[place][1] != digest:
                said = f"child {name!r} with another type, payload or option"
                raise DeterminismError.of_children(place, said, "what it has begun")


def _checked_name(name: str) -> str:
    good = isinstance(name, str) and 1 <= len(name) <= NAME_CHARS_MAX and name.isascii()
    if not good or not all(mark.isalnum() or mark in NAME_PUNCTUATION for mark in name):
        raise ValueError(f"name: {name!r} is not 1 to {NAME_CHARS_MAX} letters, digits and . _ -")
    return name


def _result(end: Mapping[str, Any]) -> Any:
    if "error" in end:
        return _failure(end)
    return jsonio.decode(end["result"].encode())


def _failure(end: Mapping[str, Any]) -> TaskFailed:
    error = end["error"]
    return TaskFailed(end["task_id"], end["state"], error["code"], error["message"])
