"""What a running skill may ask about its children: begin some, wait for them, read how they ended."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import WeakKeyDictionary

from coterie.client.errors import InvalidRequest
from coterie.client.spec import TaskSpec, prepare
from coterie.core.commands import (
    Accepted,
    CancelChildren,
    Outcome,
    Rejected,
    SpawnChild,
    SubmitTask,
    SuspendTask,
)
from coterie.core.families import ChildEnd, Family, child_id
from coterie.core.nouns import PAUSE, Priority, TaskState, WaitReason
from coterie.node.admission import Admission
from coterie.node.errors import from_rejection
from coterie.node.inputs import size_of
from coterie.node.large_json import LargeJson
from coterie.node.payloads import LOADED_AT_ONCE, Payloads, together
from coterie.node.skill_calls import Handlers, Run, refused
from coterie.node.skillhost.nouns import SkillInfo, SkillWait, Suspended
from coterie.node.skillset import filled, known_skills
from coterie.skills import Fenced
from coterie.skills.children import CHILDREN_MAX, SPAWN_CHILDREN_MAX, chain_of

ENDS_BYTES_MAX = 2 * 1024 * 1024  # of one answer, about; always one result at least
ENDS_MAX = 1_000
ROOM_PAUSE_MS = 2_000
LINGER_S = 0.05  # a parent whose children end one after the other stays: ending and starting it costs more
LINGER_MAX_S = 1.0  # then it goes all the same: the slot is needed, or the node is being emptied
LOOK_S = 0.005
FULL = frozenset({"QUEUE_FULL", "TENANT_QUOTA", "OUT_OF_ORDER"})  # the last: one before it found no room
OPTIONS = frozenset(
    {
        *(
            "priority",
            "timeout",
            "deadline",
            "max_attempts",
            "retry",
            "labels",
            "constraints",
            "key",
            "agent",
        ),
        *("start_delay", "target_node", "checkpoint"),
    }
)
PRIORITIES = {Priority.LOW: "low", Priority.NORMAL: "normal", Priority.HIGH: "high"}


@dataclass(frozen=True, slots=True)
class ChildCalls:
    """The handlers; see coterie.skills.children for the other end."""

    admission: Admission
    linger_s: float = LINGER_S
    large: LargeJson = field(default_factory=LargeJson)
    local: Callable[[], Mapping[str, SkillInfo]] = dict
    """The skills on this node's disk."""
    turns: WeakKeyDictionary[Run, asyncio.Lock] = field(default_factory=WeakKeyDictionary)
    """A run has the payloads of one call made at a time: those of all it may ask for are more than memory."""

    def handlers(self) -> Handlers:
        return {
            "children.look": self.look,
            "children.spawn": self.spawn,
            "children.wait": self.wait,
            "children.pause": self.pause,
            "children.ends": self.ends,
            "children.known": self.known,
            "children.cancel": self.cancel,
            "children.first_failed": self.first_failed,
        }

    async def look(self, run: Run, args: Any) -> dict[str, Any]:
        group = _group_of(args)
        return {**_standing(run, group), "chain": chain_of(_known(run, group))}

    async def known(self, run: Run, args: Any) -> list[tuple[str, str]]:
        return _known(run, _group_of(args))

    async def spawn(self, run: Run, args: Any) -> dict[str, Any]:
        """Begin children, in their order; the first that the queue has no room for ends it."""
        group, asked = _group_of(args), args.get("children")
        if not isinstance(asked, list) or not 1 <= len(asked) <= SPAWN_CHILDREN_MAX:
            raise refused("BAD_CHILD", f"children: a list of 1 to {SPAWN_CHILDREN_MAX} is expected")
        async with self.turns.setdefault(run, asyncio.Lock()):
            payloads = Payloads(run, self.large)
            tasks = [await self._task(run, child, payloads) for child in asked]
        full = False
        first = len(_family(run).group(group).places)
        commands = [SpawnChild(run.attempt, group, first + at, task) for at, task in enumerate(tasks)]
        for outcome in await self._begin(run, commands):
            if isinstance(outcome, Accepted):
                continue
            if outcome.code not in FULL:
                raise _refusal(outcome)
            full = True
        return {**_standing(run, group), "full": full}

    async def wait(self, run: Run, args: Any) -> dict[str, Any]:
        """Returns when few enough are open, or enough have failed; else the attempt ends here, at once or
        when no child has ended for a moment."""
        group, seen, stop_after = _group_of(args), _number(args, "seen"), _number(args, "stop_after")
        if await self._linger(run, group, seen, stop_after):
            return _standing(run, group)
        command = SuspendTask(run.task_id, run.attempt, WaitReason.CHILD, group, seen, stop_after=stop_after)
        outcome = await run.commit_own(command)
        if isinstance(outcome, Accepted):
            raise Suspended
        if outcome.code != "WAIT_OVER":
            raise Fenced(outcome.reason)
        return _standing(run, group)

    async def _linger(self, run: Run, group: str, seen: int, stop_after: int) -> bool:
        """Whether the wait was over soon, by what this node's replica shows."""
        clock = asyncio.get_running_loop().time
        began = ended_at = clock()
        before = -1
        while min(began + LINGER_MAX_S, ended_at + self.linger_s) > clock():
            now = _family(run).group(group)
            if now.open <= seen or 0 < stop_after <= now.failed:
                return True
            if now.open != before:
                before, ended_at = now.open, clock()
            await asyncio.sleep(LOOK_S)
        return False

    async def pause(self, run: Run, args: Any) -> dict[str, Any]:
        """The queue is full and nothing of ours is in it: come back later, without the slot."""
        name = f"{PAUSE}{_group_of(args)}"
        task = run.state.tasks.get(run.task_id)
        seen = sum(signal.name == name for signal in task.signals) if task is not None else 0
        await run.await_signal(SkillWait("TIMER", name, seen, ROOM_PAUSE_MS))
        return _standing(run, _group_of(args))

    async def cancel(self, run: Run, args: Any) -> None:
        group = _group_of(args)
        if _standing(run, group)["open"]:
            reason = "another child of its group failed"
            await run.commit_own(CancelChildren(run.task_id, run.attempt, group, reason))

    async def first_failed(self, run: Run, args: Any) -> dict[str, Any]:
        family, group = _family(run), _group_of(args)
        place = family.group(group).first_failed
        if place < 0:
            raise refused("NO_FAILURE", f"no child of group {group} has failed")
        return {**await self._end(run, family, place, "failures"), "codes": _codes(family, group)}

    async def ends(self, run: Run, args: Any) -> list[dict[str, Any]]:
        """How children ended, in their order, from one on; as many as fit."""
        family, show = _family(run), args.get("show")
        places = family.group(_group_of(args)).places[_number(args, "from") :][:ENDS_MAX]
        answer: list[dict[str, Any]] = []
        size = 0
        while rest := places[len(answer) :]:
            some = _fitting(family, rest, show, ENDS_BYTES_MAX - size)
            if not some and answer and show != "keys":
                return answer
            for end in await together(lambda place: self._end(run, family, place, show), some or rest[:1]):
                size += len(end.get("result", ""))
                if answer and size > ENDS_BYTES_MAX:
                    return answer
                answer.append(end)
        return answer

    async def _end(self, run: Run, family: Family, place: int, show: str | None) -> dict[str, Any]:
        end = family.end_of(place)
        if end is None:
            raise refused("NOT_ENDED", f"child {family[place].task_id} has not ended")
        if end.state is TaskState.SUCCEEDED:
            return {"result": "null" if show == "failures" else await self._result(run, end, show == "keys")}
        assert end.error is not None, "set by note_end_of_child"
        error = {"code": end.error.code, "message": end.error.message}
        return {"task_id": family[place].task_id, "state": end.state.name, "error": error}

    async def _result(self, run: Run, end: ChildEnd, only_keys: bool) -> str:
        content = await run.load(end.result)
        if only_keys:
            content = await self.large.part(content or b"null", None)
        return content.decode("utf-8", "replace")

    async def _begin(self, run: Run, commands: Sequence[SpawnChild]) -> list[Outcome]:
        """In as few entries as they fit into. What comes after a refusal is refused too."""
        outcomes: list[Outcome] = []
        for command, outcome in zip(commands, await run.commit_all(commands), strict=True):
            outcomes.append(outcome)
            if isinstance(outcome, Rejected) and outcome.code == "FENCED":
                raise Fenced(f"{outcome.reason} ({command.task.task_id})")
        return outcomes

    async def _task(self, run: Run, child: Any, payloads: Payloads) -> SubmitTask:
        if not isinstance(child, dict) or not isinstance(child.get("options", {}), dict):
            raise refused("BAD_CHILD", "a child is an object with name, type, payload and options")
        options = dict(child.get("options") or {})
        if unknown := sorted(set(options) - OPTIONS):
            raise refused("BAD_CHILD", f"unknown option {unknown[0]!r}; known: {', '.join(sorted(OPTIONS))}")
        options.setdefault("priority", PRIORITIES.get(Priority(run.task.priority), "critical"))
        options.setdefault("agent", run.task.agent)
        name = child_id(run.task_id, str(child.get("name", "")))
        if not name:
            raise refused("BAD_CHILD", "the child's id would be longer than 128 characters; shorten its name")
        command = self._admitted(run, str(child.get("type", "")), options, name)
        payload = await run.keep(await payloads.content(child))
        return replace(
            command,
            payload=payload,
            request_id="",
            digest=_digest(child),
            parent_id=run.task_id,
        )

    def _admitted(self, run: Run, kind: str, options: dict[str, Any], name: str) -> SubmitTask:
        """Checked as any submitted task is, but for its payload: the node where it runs looks at that. It has
        its own name already: by this a canary's share is chosen."""
        nodes = run.state.nodes
        try:
            request = prepare(TaskSpec(type=kind, **options), run.task.tenant).request
        except InvalidRequest as error:
            raise refused("BAD_CHILD", str(error)) from error
        command = self.admission.command(request, name, known_skills(run.state), nodes.keys())
        default_ms = self.admission.attempt_timeout_ms
        return filled(command, request.task, run.state, self.local(), default_ms)


def _digest(child: dict[str, Any]) -> bytes:
    try:
        return bytes.fromhex(str(child["digest"]))[:16]
    except (KeyError, ValueError):
        said = json.dumps(child, sort_keys=True).encode()
        return hashlib.sha256(said).digest()[:16]


def _family(run: Run) -> Family:
    return run.state.families.get(run.task_id) or Family()


def _standing(run: Run, group: str) -> dict[str, Any]:
    known = _family(run).group(group)
    return {"begun": len(known.places), "open": known.open, "failed": known.failed}


def _known(run: Run, group: str) -> list[tuple[str, str]]:
    """Name and digest of each child of the group."""
    family, prefix = _family(run), len(run.task_id) + 1
    children = (family[place] for place in family.group(group).places)
    return [(child.task_id[prefix:], child.digest.hex()) for child in children]


def _fitting(family: Family, places: Sequence[int], show: str | None, room: int) -> Sequence[int]:
    """The first few of them whose results have room together: how large each is is known before it comes."""
    for count, place in enumerate(places[:LOADED_AT_ONCE]):
        end = family.end_of(place)
        room -= size_of(end.result) if end is not None and show != "failures" else 0
        if room < 0:
            return places[:count]
    return places[:LOADED_AT_ONCE]


def _codes(family: Family, group: str) -> dict[str, int]:
    """How many children failed with which code; those that were cancelled are not among them."""
    ends = (family.end_of(place) for place in family.group(group).places)
    failed = (end for end in ends if end is not None and end.state is not TaskState.CANCELLED)
    return Counter(end.error.code for end in failed if end.error is not None)


def _refusal(outcome: Rejected) -> Exception:
    if outcome.code == "CHILD_DIFFERS":
        return refused("NOT_DETERMINISTIC", outcome.reason)
    known = from_rejection(outcome)
    return refused(known.reason, known.message)


def _group_of(args: Any) -> str:
    group = args.get("group") if isinstance(args, dict) else None
    if not isinstance(group, str) or not 0 < len(group) <= 64:
        raise refused("BAD_ARGUMENTS", f"group: {group!r} is not a text of 1 to 64 characters")
    return group


def _number(args: dict[str, Any], name: str) -> int:
    value = args.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= CHILDREN_MAX:
        raise refused("BAD_ARGUMENTS", f"{name}: {value!r} is not in 0..{CHILDREN_MAX}")
    return value
