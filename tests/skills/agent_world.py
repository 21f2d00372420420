"""A world for the agent loop, in one process: it records, runs children, thinks by a script, and dies.

Every entry that the cluster would commit is two moments at which a node may die: before it, and after it,
when the run does not learn of it any more. `quiet` lets nobody die; `deaths` is a whole run for each such
moment, with a second attempt behind it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from coterie.skills import CallRefused, SkillContext
from coterie.skills.agent.handler import run
from coterie.skills.children import chain_of
from coterie.skills.limits import Limits
from coterie.skills.link import RunFacts
from coterie.skills.registry import Skill
from coterie.skills.runner import Outcome, run_skill

SKILL = Skill("agent", "", "", 0, "idempotent", run, None)
LOG = logging.getLogger("agent")
TOKENS_IN, TOKENS_OUT = 40, 10
ATTEMPTS_MAX = 4
Message = Mapping[str, Any]
Script = Callable[
    [int, Sequence[Message]], dict[str, Any]
]  # thought number, what it sees -> text or tool_calls


class Killed(BaseException):
    """The node died here."""


def tool(name: str, **more: Any) -> dict[str, Any]:
    """A bound skill, as a node tells of it."""
    told = {"name": name, "skill": name, "description": name, "parameters": {"type": "object"}}
    return {**told, "options": {}, "manual": "", **more}


def loaded(**changes: Any) -> dict[str, Any]:
    """What a node says of the agent's revision; changes of `loop` are merged."""
    loop = {"max_steps": 9, "budget_tokens": None, "window": 100_000, "result_chars": 2_000, "parallel": 4}
    told: dict[str, Any] = {
        **{
            "id": "a",
            "system": "You are A.",
            "model": "m",
            "temperature": 0.0,
            "max_tokens": 50,
            "effort": "",
        },
        "tools": [tool("sum"), tool("fail"), tool("send", manual="Read me first."), tool("nowhere")],
        "approve": ["send"],
        "allow": ["*"],
        "deny": [],
        "handoff": [{"id": "b", "about": "prose"}],
        "stop": [],
        "mcp": {},
        "memory_ttl_s": 60,
        "loop": {**loop, "ask_human": True},
    }
    return {**told, **changes, "loop": {**told["loop"], **changes.get("loop", {})}}


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"name": name, "arguments": arguments}


@dataclass
class World:
    """What the cluster keeps of one task, and the link of each of its runs."""

    script: Script
    told: Callable[[int], dict[str, Any]]  # of the agent, by attempt
    steps: dict[str, bytes] = field(default_factory=dict)
    beside: dict[str, Sequence[str]] = field(default_factory=dict)
    groups: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    ended: dict[str, dict[str, Any]] = field(default_factory=dict)  # by child
    begun: Counter[str] = field(default_factory=Counter)
    paid: Counter[str] = field(default_factory=Counter)
    asked_of_people: Counter[str] = field(default_factory=Counter)
    kept: dict[str, str] = field(default_factory=dict)
    added: dict[str, Any] = field(default_factory=dict)  # nodes of its run
    seen: list[Sequence[Message]] = field(default_factory=list)  # by each paid thought
    commits: int = 0
    dies_at: int = -1
    attempt: int = 0

    async def outcome(self, given: Any, dies_at: int = -1) -> Outcome:
        """All attempts, until one of them ends."""
        self.dies_at = dies_at
        for self.attempt in range(1, ATTEMPTS_MAX):
            facts = RunFacts("t", self.attempt, "n", dict(self.steps), beside=dict(self.beside))
            payload = json.dumps(given).encode()
            ended = await run_skill(SKILL, SkillContext(facts, self, LOG), payload, Limits())
            if Killed.__name__ not in ended.message:
                return ended
        raise AssertionError("it never ends")

    def _commit(self, entry: Callable[[], Any]) -> Any:
        moment = 2 * self.commits
        self.commits += 1
        if self.dies_at == moment:
            raise Killed
        result = entry()
        if self.dies_at == moment + 1:
            raise Killed
        return result

    async def record_step(self, key: str, result: bytes, beside: Sequence[str] = ()) -> None:
        self._commit(lambda: self._keep(key, result, beside))

    def _keep(self, key: str, result: bytes, beside: Sequence[str] = ()) -> None:
        self.steps[key] = result
        if beside:
            self.beside[key] = beside

    async def save_checkpoint(self, state: bytes) -> None: ...

    def report_progress(self, percent: float, message: str) -> None: ...

    async def wait(self, reason: str, name: str, seen: int, timeout_ms: int) -> bytes | None:
        return json.dumps(f"a person says {seen}").encode()

    async def call_in_thread(self, function: Callable[[], Any]) -> Any:
        return function()

    async def call(self, name: str, args: Any) -> Any:
        await asyncio.sleep(0)
        answered = getattr(self, "_" + name.replace(".", "_"))(args)
        return json.loads(json.dumps(answered))

    def _agent_choose(self, args: Any) -> Any:
        return {"agent": "a", "revision": "r1"}

    def _agent_load(self, args: Any) -> Any:
        return self.told(self.attempt)

    def _llm_call(self, args: Any) -> Any:
        return self._commit(lambda: self._think(args))

    def _think(self, args: Any) -> Any:
        self.paid[args["key"]] += 1
        self.seen.append(args["messages"])
        said = self.script(len(self.paid), args["messages"])
        calls = [
            {"id": f"{args['key']}-{place}", "name": one["name"], "arguments": json.dumps(one["arguments"])}
            for place, one in enumerate(said.get("tool_calls", ()))
        ]
        usage = {"tokens_in": TOKENS_IN, "tokens_out": TOKENS_OUT, "micro_usd": 7}
        record = {"text": said.get("text", ""), "tool_calls": calls, "finish_reason": "stop", "usage": usage}
        record |= {"model": "m", "provider": "p"}
        self._keep(args["key"], json.dumps(record).encode(), args.get("beside", ()))
        return record

    def _children_look(self, args: Any) -> Any:
        known = self.groups.get(args["group"], [])
        failed = sum("error" in self.ended[name] for name, _ in known)
        return {"begun": len(known), "open": 0, "failed": failed, "chain": chain_of(known)}

    def _children_spawn(self, args: Any) -> Any:
        if any(child["type"] == "nowhere" for child in args["children"]):
            raise CallRefused("no node has it")
        for child in args["children"]:
            self._commit(partial(self._begin, args["group"], child))
        return self._children_look(args)

    def _begin(self, group: str, child: Any) -> None:
        self.groups.setdefault(group, []).append((child["name"], child["digest"]))
        self.begun[child["name"]] += 1
        self.ended[child["name"]] = ended(child)

    def _children_ends(self, args: Any) -> Any:
        return [self.ended[name] for name, _ in self.groups.get(args["group"], [])[args["from"] :]]

    def _children_known(self, args: Any) -> Any:
        return self.groups.get(args["group"], [])

    def _approvals_ask(self, args: Any) -> Any:
        self._commit(lambda: self.asked_of_people.update({args["call_sha256"]: 1}))
        return {"verdict": "APPROVED", "by": ["ann"], "comments": []}

    def _events_emit(self, args: Any) -> Any:
        self._commit(lambda: self._keep(args["key"], args["text"].encode(), args.get("beside", ())))

    def _run_grow(self, args: Any) -> Any:
        nodes = json.loads(args["nodes"])["nodes"]
        if unknown := sorted({one["agent"] for one in nodes.values()} - set(args["agents"])):
            raise CallRefused(f"agent {unknown[0]!r} is none of them", code="AGENT_FORBIDS")
        self._commit(lambda: self.added.update(nodes))
        return {"added": list(nodes)}

    def _kv_put(self, args: Any) -> Any:
        self._commit(lambda: self.kept.update({args["key"]: args["value"]}))
        return 1

    def _kv_list(self, args: Any) -> Any:
        found = [{"key": key, "value": value, "version": 1} for key, value in sorted(self.kept.items())]
        return {"found": found, "more": False}


def ended(child: Mapping[str, Any]) -> dict[str, Any]:
    """How a child ends, by its type."""
    given = json.loads(child["payload"])
    if child["type"] == "fail":
        error = {"code": "NO_LUCK", "message": "it did not work"}
        return {"error": error, "task_id": f"t~{child['name']}", "state": "FAILED"}
    if child["type"] == "agent":
        return {"result": json.dumps({"answer": f"{child['options']['agent']} did: {given['prompt']}"})}
    return {"result": json.dumps({child["type"]: given})}


def digest(messages: Sequence[Message]) -> str:
    """An answer that differs when anything of the conversation does."""
    return hashlib.sha256(json.dumps(messages, sort_keys=True).encode()).hexdigest()


async def quiet(script: Script, given: Any = "go", **changes: Any) -> tuple[World, Outcome]:
    """One attempt, nobody dies."""
    world = World(script, lambda attempt: loaded(**changes))
    return world, await world.outcome(given)


async def deaths(
    script: Script, given: Any = "go", later: Mapping[str, Any] | None = None, **changes: Any
) -> list[tuple[World, Outcome]]:
    """A whole run for each moment at which the first node can die. `later`: changed in later attempts."""
    first, then = loaded(**changes), loaded(**{**changes, **(later or {})})

    def told(attempt: int) -> dict[str, Any]:
        return first if attempt == 1 else then

    calm, _ = await quiet(script, given, **changes)
    found = []
    for moment in range(2 * calm.commits):
        world = World(script, told)
        found.append((world, await world.outcome(given, moment)))
    return found


def differences(calm: World, of: Outcome, others: Sequence[tuple[World, Outcome]]) -> Iterator[str]:
    """What a death has changed, though it must change nothing."""
    for moment, (world, outcome) in enumerate(others):
        if outcome != of:
            yield f"moment {moment}: {outcome.code or outcome.result!r}"
        for what in ("paid", "begun", "asked_of_people"):
            counts = getattr(world, what)
            if what != "asked_of_people" and any(count > 1 for count in counts.values()):
                yield f"moment {moment}: {what} twice: {counts}"
            if set(counts) != set(getattr(calm, what)):
                yield f"moment {moment}: other {what}: {sorted(counts)}"
