"""Commands and state as bytes. What is on disk is our own protobuf and never names a Python class.

How a record becomes a message is the business of `records`."""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar, get_args

from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

from coterie.core import access as a
from coterie.core import breakers as b
from coterie.core import commands as c
from coterie.core import families as f
from coterie.core import meters as m
from coterie.core import nouns as n
from coterie.core import quotas as q
from coterie.core import skillbook as k
from coterie.core.agentbook import TABLES as AGENT_TABLES
from coterie.core.commands import Called
from coterie.core.config_commands import TABLES as CONFIG_TABLES
from coterie.core.coordination.tables import TABLES
from coterie.core.decisions import nouns as d
from coterie.core.llm import nouns as l
from coterie.core.llm.state import LlmState
from coterie.core.runs.run import NodeRun, Run, RunHead
from coterie.core.runs.texts import TABLES as WORKFLOW_TABLES
from coterie.core.state import FORMAT as STATE_FORMAT
from coterie.core.state import ClusterState, Meta
from coterie.core.steplog import StepLog
from coterie.raft.errors import NewerVersion
from coterie.raft.records import Codec, codec_for, fill_repeated, register
from coterie.v1 import log_pb2 as pb

T = TypeVar("T")
VERSION = 1  # an entry that older versions must not skip or read by half says so: Batch.needs
FAMILY_RECORDS = 200  # children in one slice
ORIGINS_MAX = 1_000
SLICE_RECORDS = 50  # a slice is made, and read, without a turn for the event loop
SLICE_BYTES = 1 << 20  # and not much larger than this, unless one record is


class CalledCodec(Codec):
    """Of the one record that holds a command of any kind."""

    def __init__(self) -> None:
        self.record, self.message = Called, pb.Called
        self.origin = Codec(a.Origin, pb.Origin)
        self.enums, self.nested, self.repeated = [], [], []
        self._known: dict[bytes, a.Origin] = {}

    def fill(self, record: Any, message: Any) -> None:
        self.origin.fill(record.origin, message.origin)
        _fill_command(record.command, message.command)

    def read(self, message: Any) -> Any:
        command = _decode(message.command)
        if command is None:
            raise ValueError("a call without a command")
        return Called(command, self._origin(message.origin))

    def _origin(self, message: Any) -> a.Origin:
        """The few there are at a time are made once."""
        raw = message.SerializeToString()
        known = self._known.get(raw)
        if known is None:
            if len(self._known) >= ORIGINS_MAX:
                self._known.clear()
            known = self._known[raw] = self.origin.read(message)
        return known


def _snake(name: str) -> str:
    return "".join("_" + ch.lower() if ch.isupper() else ch for ch in name).lstrip("_")


register(Called, CalledCodec())
_FIELD_OF: dict[type, tuple[str, Codec]] = {
    command: (_snake(command.__name__), codec_for(command)) for command in get_args(c.Command)
}
_CODEC_OF = {name: codec for name, codec in _FIELD_OF.values()}


def encode_batch(commands: Iterable[c.Command]) -> bytes:
    """One log entry."""
    batch = pb.Batch()
    for command in commands:
        _fill_command(command, batch.commands.add())
    return batch.SerializeToString()


def _fill_command(command: c.Command, message: pb.Command) -> None:
    name, codec = _FIELD_OF[type(command)]
    sub = getattr(message, name)
    sub.SetInParent()
    codec.fill(command, sub)


def decode_batch(entry: bytes) -> list[c.Command | None] | None:
    """The commands of an entry; None for what no version can read. Raises NewerVersion for what only a newer
    one can: replicas that skip it would part from those that apply it."""
    try:
        batch = pb.Batch.FromString(entry)
    except DecodeError:
        return None
    if batch.needs and (needs := max(batch.needs)) > VERSION:
        raise NewerVersion(f"an entry that needs version {needs} of the codec (this is {VERSION})")
    return [_decode(message) for message in batch.commands]


def _decode(message: pb.Command) -> c.Command | None:
    name = message.WhichOneof("command")
    if name is None:
        if len(UnknownFieldSet(message)):
            raise NewerVersion("an entry with a command that is not known here")
        return None
    codec, body = _CODEC_OF[name], getattr(message, name)
    try:
        return typing.cast(c.Command, codec.read(body))
    except ValueError as error:
        if _is_of_the_future(codec, body):
            raise NewerVersion(f"an entry with a value that is not known here ({error})") from error
        return None


def _is_of_the_future(codec: Codec, message: Any) -> bool:
    """An enum has a value that is neither known nor missing."""
    values = ((kind, getattr(message, name)) for name, kind in codec.enums)
    if any(value and value not in list(kind) for kind, value in values):
        return True
    inner = [(sub, getattr(message, name)) for name, sub, _ in codec.nested]
    inner += [(sub, one) for name, sub in codec.repeated if sub for one in getattr(message, name)]
    return any(_is_of_the_future(sub, one) for sub, one in inner)


def encode(record: Any) -> bytes:
    """Any single record."""
    codec = codec_for(type(record))
    message = codec.message()
    codec.fill(record, message)
    return typing.cast(bytes, message.SerializeToString())


def decode(record: type[T], raw: bytes) -> T:
    """The record again; raises google.protobuf.message.DecodeError when it is none."""
    codec = codec_for(record)
    return typing.cast(T, codec.read(codec.message.FromString(raw)))  # type: ignore[attr-defined]


def _slices(
    items: Iterable[Any], add: Callable[[pb.StateSlice, Any], Message], records: int = SLICE_RECORDS
) -> Iterator[bytes]:
    """`add` puts one of the items into a slice, and returns the message it has made for it."""
    piece, count, size = pb.StateSlice(), 0, 0
    for item in items:
        size += add(piece, item).ByteSize()
        count += 1
        if count >= records or size >= SLICE_BYTES:
            yield piece.SerializeToString()
            piece, count, size = pb.StateSlice(), 0, 0
    if count:
        yield piece.SerializeToString()


def _table(name: str, record: type, items: Iterable[Any], records: int = SLICE_RECORDS) -> Iterator[bytes]:
    """Slices of records that are all of one kind and stand in one field."""
    codec = codec_for(record)

    def add(piece: pb.StateSlice, item: Any) -> Message:
        message: Message = getattr(piece, name).add()
        codec.fill(item, message)
        return message

    return _slices(items, add, records)


def encode_state(state: ClusterState, tasks: Iterable[n.Task] | None = None) -> Iterator[bytes]:
    """The state as slices of a bounded number of records. `state` must not change meanwhile: pass a copy.
    `tasks` are those of the state, if they do not come from it."""
    head = pb.StateSlice()
    codec_for(Meta).fill(state.meta, head.meta)
    head.meta.SetInParent()
    yield head.SerializeToString()

    def add_task(piece: pb.StateSlice, task: n.Task) -> Message:
        message = piece.tasks.add()
        fill_task(message, task, state.steps.get(task.task_id, ()))
        return message

    yield from _table("nodes", n.Node, state.nodes.values())
    yield from _slices(state.tasks.values() if tasks is None else tasks, add_task)
    yield from _table("finished", n.Task, state.finished.values())
    yield from _table("requests", n.Request, state.requests.values())
    yield from _table("anchors", n.Anchor, state.anchors.values())
    yield from _table("dead_letters", n.DeadLetter, state.dead_letters.values())
    for name, record, _ in _all_tables():
        yield from _table(name, record, getattr(state, name).values())
    yield from _table("run_heads", RunHead, (run.head for run in state.runs.values()))
    yield from _table(
        "node_runs", NodeRun, (one for run in state.runs.values() for one in run.nodes.values())
    )
    yield from _table("family_parts", f.FamilyPart, _family_parts(state), 1)
    yield from _llm(state.llm)


def _all_tables() -> tuple[tuple[str, type, Callable[[Any], str | int]], ...]:
    """Where the state keeps each kind of record, and under which key."""
    return (
        ("limits", q.Limit, lambda limit: limit.limit_id),
        ("buckets", q.Bucket, lambda bucket: bucket.name),
        ("tenants", q.Tenant, lambda tenant: tenant.tenant),
        ("shares", q.Share, lambda share: share.tenant),
        ("breakers", b.Breaker, lambda breaker: breaker.key),
        *(*TABLES, *a.TABLES, *k.TABLES, *AGENT_TABLES, *d.TABLES, *m.TABLES),
        *(*WORKFLOW_TABLES, *CONFIG_TABLES),
    )


LLM_TABLES: dict[str, type] = {  # in a slice; see LlmState
    "llm_budgets": l.LlmBudget,
    "llm_accounts": l.Account,
    "llm_calls": l.LlmCall,
    "llm_doubtful": l.DoubtfulCall,
    "llm_usage": l.LlmUsage,
    "llm_cache": l.CachedAnswer,
}


def _llm(llm: LlmState) -> Iterator[bytes]:
    calls = (call for calls in llm.calls.values() for call in calls)
    tables: list[Iterable[Any]] = [llm.budgets.values(), llm.accounts.values(), calls]
    tables += [llm.doubtful.values(), llm.usage.values(), llm.cache.values()]
    for (name, kind), records in zip(LLM_TABLES.items(), tables, strict=True):
        yield from _table(name, kind, records)


def _family_parts(state: ClusterState) -> Iterator[f.FamilyPart]:
    for parent_id, family in state.families.items():
        yield from family.parts(parent_id, FAMILY_RECORDS)


def fill_task(message: pb.TaskWithSteps, task: n.Task, steps: Iterable[n.Step]) -> None:
    codec_for(n.Task).fill(task, message.task)
    fill_repeated(message.steps, steps, codec_for(n.Step))


def read_task(message: pb.TaskWithSteps) -> tuple[n.Task, tuple[n.Step, ...]]:
    step = codec_for(n.Step)
    return codec_for(n.Task).read(message.task), tuple(step.read(m) for m in message.steps)


def decode_state(slices: Iterable[bytes]) -> ClusterState:
    """The state again, look-ups included. Raises DecodeError or ValueError when a slice is none of ours."""
    state = ClusterState()
    for raw in slices:
        read_slice(state, raw)
    state.rebuild()
    return state


def read_slice(state: ClusterState, raw: bytes) -> None:
    """Add one slice of an image; when all are there, the state has to be rebuilt. Raises as decode_state."""
    piece = pb.StateSlice.FromString(raw)
    if piece.HasField("meta"):
        if piece.meta.format > STATE_FORMAT:
            raise NewerVersion(f"an image of the state in format {piece.meta.format}")
        state.meta = codec_for(Meta).read(piece.meta)
    for node in piece.nodes:
        record = codec_for(n.Node).read(node)
        state.nodes[record.node_id] = record
    for message in piece.tasks:
        task, steps = read_task(message)
        state.tasks[task.task_id] = task
        if steps:
            state.steps[task.task_id] = StepLog(steps)
    for finished in piece.finished:
        task = codec_for(n.Task).read(finished)
        state.finished[task.task_id] = task
    for request in piece.requests:
        known = codec_for(n.Request).read(request)
        state.requests[known.key] = known
    for kept in piece.anchors:
        anchor = codec_for(n.Anchor).read(kept)
        state.anchors[anchor.session] = anchor
    _read_more(state, piece)


def _read_more(state: ClusterState, piece: pb.StateSlice) -> None:
    for letter in (codec_for(n.DeadLetter).read(message) for message in piece.dead_letters):
        state.dead_letters[letter.task.task_id] = letter
    for part in (codec_for(f.FamilyPart).read(message) for message in piece.family_parts):
        state.families.setdefault(part.parent_id, f.Family()).add(part)
    for run_head in (codec_for(RunHead).read(message) for message in piece.run_heads):
        state.runs[run_head.run_id] = Run(run_head)
    for node_run in (codec_for(NodeRun).read(message) for message in piece.node_runs):
        if node_run.run_id not in state.runs:
            raise ValueError(f"{node_run.run_id}: a node of a run that is not there")
        state.runs[node_run.run_id].nodes[node_run.node_id] = node_run
    _read_tables(state, piece)


def _read_tables(state: ClusterState, piece: pb.StateSlice) -> None:
    for name, kind in LLM_TABLES.items():
        for message in getattr(piece, name):
            state.llm.restore(codec_for(kind).read(message))
    for name, kind, key_of in _all_tables():
        table, codec = getattr(state, name), codec_for(kind)
        for record in map(codec.read, getattr(piece, name)):
            table[key_of(record)] = record
