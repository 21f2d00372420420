"""What the services of coordination share: reading, proposing, checking names."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import grpc

from coterie.core.commands import Accepted, Command, Outcome, Rejected
from coterie.core.nouns import Label
from coterie.core.state import ClusterState
from coterie.node.admission import checked_tenant
from coterie.node.clock import Clock, LogTime
from coterie.node.coordination.tide import Tide
from coterie.node.errors import ApiError, Violation, from_rejection, invalid
from coterie.node.proposer import Proposer
from coterie.node.reads import Reader
from coterie.node.rpc import Context, propose_seconds, seconds_left
from coterie.v1 import tasks_pb2

LOCK_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@~-]{0,199}")
OWNER = re.compile(r"[\x21-\x7e]{1,200}")
TOPIC_TOKEN = r"[A-Za-z0-9_-]+"
TOPIC = re.compile(rf"{TOPIC_TOKEN}(?:\.{TOPIC_TOKEN})*")
PATTERN = re.compile(rf"(?:\$dead|{TOPIC_TOKEN}|[*+])(?:\.(?:{TOPIC_TOKEN}|[*+]))*(?:\.[>#])?|[>#]")
GROUP = re.compile(r"[A-Za-z0-9_-]{1,64}")
SCHEDULE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
NAME_CHARS_MAX = 200


@dataclass(frozen=True, slots=True)
class Desk:
    """The parts a service works with."""

    state: Callable[[], ClusterState]
    reader: Reader
    proposer: Proposer
    tide: Tide
    clock: Clock
    time: LogTime

    async def look(
        self, context: Context, mode: tasks_pb2.ReadMode.ValueType = tasks_pb2.LINEARIZABLE
    ) -> None:
        """From here on this node shows at least what was committed when the call came."""
        await self.reader.barrier(mode, seconds_left(context))

    async def propose(self, command: Command, context: Context) -> Outcome:
        await self.reader.connected()
        return await self.proposer.one(command, propose_seconds(context))

    def mark(self, request_id: str, *parts: object) -> tuple[str, bytes]:
        """Request id and digest of a change. A proposal whose outcome was unknown is made again: without an
        id it would be done twice."""
        return request_id or self.clock.new_id(), digest_of(*parts)

    async def commit(self, command: Command, context: Context) -> Accepted:
        """Raises ApiError when it is refused."""
        return accepted(await self.propose(command, context))


def digest_of(*parts: object) -> bytes:
    """Tells a repeated request from another one under the same id."""
    return hashlib.sha256(repr(parts).encode()).digest()[:16]


def accepted(outcome: Outcome) -> Accepted:
    """Raises ApiError for a refusal."""
    if isinstance(outcome, Rejected):
        raise from_rejection(outcome)
    return outcome


def check(parent: str, *wrong: list[Violation]) -> str:
    """The tenant. Raises ApiError with everything that is wrong."""
    tenant = checked_tenant(parent)
    found = [violation for violations in wrong for violation in violations]
    if found:
        raise invalid(found)
    return tenant


def name_faults(field: str, name: str, pattern: re.Pattern[str], what: str) -> list[Violation]:
    if len(name) <= NAME_CHARS_MAX and pattern.fullmatch(name):
        return []
    return [Violation(field, f"{name[:NAME_CHARS_MAX]!r}: use {what}")]


def lock_faults(name: str, field: str = "name") -> list[Violation]:
    return name_faults(field, name, LOCK_NAME, "1 to 200 letters, digits and . _ : / @ ~ -")


def topic_faults(name: str, field: str = "topic") -> list[Violation]:
    return name_faults(field, name, TOPIC, "words of letters, digits, _ and - with dots between them")


def pattern_faults(pattern: str, field: str = "pattern") -> list[Violation]:
    what = "words with dots between them, * or + for any one, > at the end for one or more, # for none too"
    return name_faults(field, pattern, PATTERN, what)


def group_faults(name: str, field: str = "group") -> list[Violation]:
    return name_faults(field, name, GROUP, "1 to 64 letters, digits, _ and -")


def schedule_faults(name: str, field: str = "schedule_id") -> list[Violation]:
    return name_faults(field, name, SCHEDULE_ID, "1 to 64 letters, digits, _ and -")


def key_faults(key: str, chars_max: int, field: str = "key") -> list[Violation]:
    if 0 < len(key) <= chars_max and key.isprintable():
        return []
    return [Violation(field, f"{key[:80]!r} is not 1 to {chars_max} printable characters")]


def range_faults(field: str, value: int, least: int, most: int, remark: str = "") -> list[Violation]:
    return [] if least <= value <= most else [Violation(field, f"{value} is not in {least}..{most}{remark}")]


def headers_of(headers: Mapping[str, str]) -> tuple[Label, ...]:
    """In the order of their keys: the same request gives the same command."""
    return tuple(Label(key, headers[key]) for key in sorted(headers))


def mismatch(outcome: Rejected, version: int) -> ApiError:
    """ABORTED, with the version that is there."""
    metadata = {"version": str(version)}
    return ApiError(grpc.StatusCode.ABORTED, outcome.code, outcome.reason, metadata=metadata)


def not_there(what: str, name: str) -> ApiError:
    metadata = {"name": name}
    message = f"no {what.lower().replace('_', ' ')} {name!r}"
    return ApiError(grpc.StatusCode.NOT_FOUND, f"{what}_NOT_FOUND", message, metadata=metadata)
