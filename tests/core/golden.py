"""Logs as this version writes them, kept for ever; `python -m tests.raft.golden` adds one when there is
something new. A file that is there is never written again: what was once in somebody's log does not change.

`NAME.log`: entries as hex, one a line; the last line is the hash of the state they lead to. `NAME.txt`,
beside the logs of the story: what each entry says, and how it was answered."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from coterie.core.canonical import state_hash
from coterie.core.commands import Accepted, Command, Outcome
from coterie.core.state import ClusterState
from coterie.raft import codec
from coterie.raft.replica import Replica
from coterie.v1 import log_pb2
from tests.core.story import told

FOLDER = Path(__file__).parent / "golden"
ADD = "let the story of tests/core/story have it, run python -m tests.raft.golden and commit what it writes"
Place = tuple[str, str]  # a message of log.proto, and a field of it


def logs() -> list[Path]:
    return sorted(FOLDER.glob("*.log"))


def stories() -> list[Path]:
    return sorted(FOLDER.glob("story-*.log"))


def read(path: Path) -> tuple[list[bytes], str]:
    """The entries, and the hash of the state they lead to."""
    *entries, digest = path.read_text("ascii").split()
    return [bytes.fromhex(entry) for entry in entries], digest


def replayed(entries: list[bytes]) -> ClusterState:
    return apply_all(Replica(lambda index, events: None, lambda index: None), entries)[0]


def apply_all(replica: Replica, entries: list[bytes], after: int = 0) -> tuple[ClusterState, list[Outcome]]:
    """What the entries that follow on the `after`-th lead to, and how each of their commands is answered."""
    answers: list[Outcome] = []
    for index, entry in enumerate(entries, after + 1):
        answers += replica.apply(index, 1_000 + index, entry)
    return replica.state, answers


def write_story(path: Path) -> None:
    """A new pair of files."""
    stage, _ = told()
    entries = [codec.encode_batch([command]) for command in stage.commands]
    lines = [*(entry.hex() for entry in entries), state_hash(replayed(entries))]
    for name, text in ((path, lines), (path.with_suffix(".txt"), list(sayings(entries)))):
        with name.open("x", encoding="utf-8") as file:  # which fails if it is there
            file.write("\n".join(text) + "\n")


# --- what entries say


def sayings(entries: list[bytes]) -> Iterator[str]:
    """One line for each command: what it says and how it is answered."""
    _, answers = apply_all(Replica(lambda index, events: None, lambda index: None), entries)
    for command, answer in zip(commands_of(entries), answers, strict=True):
        yield f"{said(command)} -> {answered(answer)}"


def commands_of(entries: Iterable[bytes]) -> Iterator[Command | None]:
    for entry in entries:
        yield from codec.decode_batch(entry) or ()


def said(value: Any) -> str:
    """A value as text. Of a record only what is not at its default: a field that is added says nothing."""
    if is_dataclass(value):
        parts = (f"{one.name}={said(getattr(value, one.name))}" for one in _told_fields(value))
        return f"{type(value).__name__}({', '.join(parts)})"
    if isinstance(value, tuple):
        return f"[{', '.join(map(said, value))}]"
    return str(int(value)) if isinstance(value, int) else repr(value)


def _told_fields(record: Any) -> Iterator[Field[Any]]:
    return (one for one in fields(record) if getattr(record, one.name) != _default(one))


def _default(one: Field[Any]) -> Any:
    return one.default_factory() if one.default_factory is not MISSING else one.default


def answered(outcome: Outcome) -> str:
    """Without words for people, which may change."""
    if isinstance(outcome, Accepted):
        parts = (outcome.task_id, str(outcome.number or ""), "duplicate" * outcome.duplicate)
        return " ".join(("accepted", *filter(None, parts)))
    return f"{outcome.code} {outcome.retry_at_ms or ''}".strip()


# --- which fields are there, and which are used


def places_in(message: Message) -> Iterator[Place]:
    """The fields that hold something in the message and in those within it."""
    for field, value in message.ListFields():
        yield message.DESCRIPTOR.name, field.name
        if field.message_type is not None:
            for inner in (value,) if isinstance(value, Message) else value:
                yield from places_in(inner)


def places_of(kind: Descriptor, known: set[str] | None = None) -> Iterator[Place]:
    """All fields of that message and of those that may be within it."""
    known = known if known is not None else set()
    if kind.name in known:
        return
    known.add(kind.name)
    for field in kind.fields:
        yield kind.name, field.name
        if field.message_type is not None:
            yield from places_of(field.message_type, known)


def strangers_in(message: Message) -> Iterator[str]:
    """What is in the message, or within it, under numbers that mean nothing here."""
    unknown = UnknownFieldSet(message)
    for place in range(len(unknown)):
        yield f"{message.DESCRIPTOR.name}: field {unknown[place].field_number}"
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in (value,) if isinstance(value, Message) else value:
                yield from strangers_in(inner)


def batches() -> Iterator[log_pb2.Batch]:
    """Of all golden logs."""
    for path in logs():
        yield from map(log_pb2.Batch.FromString, read(path)[0])


def missing(used: Iterable[Message], kind: Descriptor) -> set[Place]:
    """The fields of that kind of message in which none of those that are kept holds anything."""
    seen = {place for message in used for place in places_in(message)}
    return set(places_of(kind)) - seen
