"""Effects on the world outside, approvals by people, and events for watchers.

An effect has an intent, committed before the call, and a result, committed after it. An attempt that finds an
intent without a result cannot know whether the effect happened: it is in doubt, and what is done then is said
beforehand."""

from __future__ import annotations

import hashlib
import inspect
import json
import math
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from coterie.skills import jsonio
from coterie.skills.decorator import EFFECTS, Effects
from coterie.skills.errors import InDoubt, NotDone, WaitTimedOut
from coterie.skills.link import Link, RunFacts
from coterie.skills.replay import Replay

OnUnknown = Literal["retry", "ask", "fail"]
ON_UNKNOWN: tuple[OnUnknown, ...] = ("retry", "ask", "fail")
DEFAULTS: Mapping[str, OnUnknown] = {"idempotent": "retry", "external": "ask"}
KEY_CHARS_MAX = 256
EVENT_BYTES_MAX = 16 * 1024
CALL_BYTES_MAX = 64 * 1024
QUESTION_CHARS_MAX = 1_000
APPROVERS_MAX = 16
EXPIRY_S_MAX = 366 * 24 * 3_600


@dataclass(frozen=True, slots=True)
class Effect:
    """What a function with a parameter `effect` is told, to hand on to its target."""

    key: str
    """The same in every attempt: a target that keeps it does the same thing once."""
    attempt: int
    """Grows: a target that remembers the highest it saw refuses a late call of an earlier attempt."""
    tries: int
    """How often it was begun, this time included."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What people said to a call. True if they approved it."""

    approved: bool
    by: tuple[str, ...] = ()
    comments: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.approved


class Decisions:
    """The part of a SkillContext that has to do with the world outside."""

    effects: Effects = "idempotent"
    """What the skill says of itself; the default of `ctx.effect`."""
    task_id: str
    _facts: RunFacts
    _link: Link
    _replay: Replay
    _asked: int

    def _claim_key(self, name: str) -> str:
        raise NotImplementedError

    def _run_step(self, key: str, call: Callable[[], Any], is_async: bool) -> Coroutine[Any, Any, Any]:
        raise NotImplementedError

    async def _record(self, key: str, data: bytes) -> None:
        raise NotImplementedError

    async def call_in_thread(self, function: Callable[[], Any]) -> Any:
        raise NotImplementedError

    def effect(
        self,
        name: str,
        fn: Callable[..., Any],
        *args: Any,
        key: str = "",
        on_unknown: OnUnknown | None = None,
        effects: Effects | None = None,
        **kwargs: Any,
    ) -> Coroutine[Any, Any, Any]:
        """Await this: call `fn(*args, **kwargs)`, which does something to the world outside.

        Recorded as a step is, and its intent before the call. Where an earlier attempt recorded the intent
        and no result, the effect is in doubt, and `on_unknown` says what to do: "retry" calls again with the
        same key, for targets that do not mind or can tell; "ask" waits for an operator (`coterie task
        resolve`), without process or slot; "fail" raises InDoubt. `effects` is the class: "none" (a plain
        step), "idempotent" (default: retry) or "external" (default: ask); without it the skill's own.

        If `fn` has a parameter `effect` it gets an Effect: `key` (task and step unless given here, which must
        be the same in every attempt) and a growing attempt number. An exception of `fn` leaves the effect in
        doubt, except NotDone. Raises as `step` does, and InDoubt."""
        step = self._claim_key(name)
        kind = effects or self.effects
        policy = on_unknown or DEFAULTS.get(kind, "ask")
        if kind not in EFFECTS or policy not in ON_UNKNOWN:
            raise ValueError(f"effects {kind!r}, on_unknown {policy!r}: {EFFECTS}, {ON_UNKNOWN} are known")
        target = key or f"{self.task_id}/{step}"
        if not isinstance(target, str) or len(target) > KEY_CHARS_MAX:
            raise ValueError(f"key: {key!r} is not a text of at most {KEY_CHARS_MAX} characters")
        if kind == "none":
            return self._run_step(step, lambda: fn(*args, **kwargs), _is_async(fn))
        return self._run_effect(step, target, policy, _bound(fn, args, kwargs))

    async def _run_effect(
        self, step: str, target: str, policy: OnUnknown, call: Callable[[Effect], Callable[[], Any]]
    ) -> Any:
        recorded = self._replay.result(step)
        if recorded is not None:
            return jsonio.decode(recorded)
        asked = {"key": step, "effect_key": target, "on_unknown": policy}
        begun = await self._link.call("effects.begin", asked)
        if "result" in begun:
            return jsonio.decode(begun["result"].encode())
        if "in_doubt" in begun:
            raise InDoubt(f"step {step!r} is in doubt: {begun['in_doubt']}")
        run = call(Effect(target, begun["attempt"], begun["tries"]))
        try:
            result = run() if _is_async(run) else await self.call_in_thread(run)
            if isinstance(result, Awaitable):
                result = await result
        except NotDone:
            await self._link.call("effects.withdraw", {"key": step})
            raise
        data = jsonio.encode(result, f"the result of effect {step!r}", self._facts.step_bytes_max)
        await self._record(step, data)
        return jsonio.decode(data)

    def approve(
        self, question: str, call: Any = None, approvers: int = 1, timeout: float | None = None
    ) -> Coroutine[Any, Any, Decision]:
        """Await this: ask people whether `call` (any JSON value: what is about to be done) may be done.

        They approve exactly that call, by its hash: if a later attempt comes here with another one it fails
        with NOT_DETERMINISTIC. `approvers` distinct people must approve; one that rejects is enough. Until
        then the task holds neither process nor slot. `timeout` in seconds; then WaitTimedOut is raised."""
        if not isinstance(question, str) or not 1 <= len(question) <= QUESTION_CHARS_MAX:
            raise ValueError(f"question: give a text of 1 to {QUESTION_CHARS_MAX} characters")
        if (
            isinstance(approvers, bool)
            or not isinstance(approvers, int)
            or not 1 <= approvers <= APPROVERS_MAX
        ):
            raise ValueError(f"approvers: {approvers!r} is not a whole number from 1 to {APPROVERS_MAX}")
        timeout_ms = 0 if timeout is None else _timeout_ms(timeout)
        shown = jsonio.encode(call, "the call to be approved", CALL_BYTES_MAX)
        ordered = json.dumps(jsonio.decode(shown), sort_keys=True, separators=(",", ":"))
        self._asked += 1
        asked = {
            "place": self._asked,
            "question": question,
            "call": shown.decode(),
            "call_sha256": hashlib.sha256(ordered.encode()).hexdigest(),
            "needed": approvers,
            "timeout_ms": timeout_ms,
        }
        return self._approve(asked)

    async def _approve(self, asked: Mapping[str, Any]) -> Decision:
        answer = await self._link.call("approvals.ask", asked)
        if answer["verdict"] == "EXPIRED":
            raise WaitTimedOut(f"nobody decided in time: {asked['question']}")
        by, comments = tuple(answer["by"]), tuple(answer["comments"])
        return Decision(answer["verdict"] == "APPROVED", by, comments)

    def emit(self, event: str, data: Any = None) -> Coroutine[Any, Any, None]:
        """Await this: tell those who watch the task something (any JSON value), once, whatever happens to
        nodes: it is recorded as a step is and stays in the history. Raises as `step` does."""
        key = self._claim_key(f"emit:{event}")
        text = jsonio.encode({"event": event, "data": data}, f"event {event!r}", EVENT_BYTES_MAX)
        return self._emit(key, text)

    async def _emit(self, key: str, text: bytes) -> None:
        if self._replay.result(key) is None:
            beside = self._replay.beside(key)
            told = {"beside": beside} if beside else {}
            await self._link.call("events.emit", {"key": key, "text": text.decode(), **told})
            self._replay.recorded(key, beside)


def _bound(
    fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Callable[[Effect], Callable[[], Any]]:
    """The call, once the effect is known that it may want to hand on."""
    try:
        wants = "effect" in inspect.signature(fn).parameters and "effect" not in kwargs
    except (TypeError, ValueError):  # a builtin says nothing of itself
        wants = False

    def bind(effect: Effect) -> Callable[[], Any]:
        given = {**kwargs, "effect": effect} if wants else kwargs
        if _is_async(fn):

            async def run_async() -> Any:
                return await fn(*args, **given)

            return run_async
        return lambda: fn(*args, **given)

    return bind


def _is_async(fn: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(getattr(fn, "__call__", None))  # noqa: B004


def _timeout_ms(seconds: float) -> int:
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= EXPIRY_S_MAX:
        raise ValueError(f"timeout: {seconds!r} is not in 0..{EXPIRY_S_MAX} seconds")
    return max(1, math.ceil(seconds * 1_000))
