"""What was asked, what was answered and when; what was done to the world; what was there in the end.

Times are integers of one monotonic clock (us). A call without an answer has an unknown outcome: it may have
happened at any time after it was made, or never."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from coterie.core.nouns import TaskState
from coterie.core.transitions import TERMINAL

FOREVER = 1 << 62


class Kind(Enum):
    SUBMIT = "submit"
    CANCEL = "cancel"
    READ = "read"
    # What a worker reports, with its attempt number.
    START = "start"
    STEP = "step"
    CHECKPOINT = "checkpoint"
    FINISH = "finish"
    FAIL = "fail"
    RELEASE = "release"
    CONFIRM = "confirm"


class Told(Enum):
    """An answer that is not a view of the task."""

    OK = "ok"
    MISSING = "missing"  # there is no such task
    TERMINAL = "terminal"  # refused: it has ended
    FENCED = "fenced"  # refused: another attempt holds it, or none
    RECORDED = "recorded"  # refused: another attempt has completed that step
    CANCELLED = "cancelled"  # refused: it was cancelled before this result came


@dataclass(frozen=True, slots=True)
class View:
    """A task as a read saw it."""

    state: TaskState
    attempt: int
    cancel_requested: bool = False
    step_count: int = 0
    checkpoint: int | None = None  # its number; None: the read does not tell
    result: bytes = b""
    request_id: str = ""

    @property
    def ended(self) -> bool:
        return self.state in TERMINAL


@dataclass(slots=True)
class Call:
    """One call with all its retries. `tries` above one: a refusal may hide an accepted one."""

    kind: Kind
    invoked: int
    task_id: str = ""
    request_id: str = ""
    attempt: int = 0
    key: str = ""  # of a step
    number: int = 0  # of a checkpoint
    value: bytes = b""  # the result of a step or of the task
    returned: int = FOREVER
    answer: Told | View | None = None
    tries: int = 1

    def answered(self, at: int, answer: Told | View) -> None:
        self.returned, self.answer = at, answer

    @property
    def identity(self) -> tuple[object, ...]:
        """Equal for calls that are the same idempotent call."""
        return (self.kind, self.task_id, self.request_id, self.attempt, self.key, self.number, self.value)


@dataclass(frozen=True, slots=True)
class Effect:
    """A step's work as the outside world saw it."""

    at: int
    task_id: str
    key: str
    attempt: int


@dataclass(slots=True)
class History:
    """`closed`: every report of every worker is among the calls, so that a read may show nothing else.

    `end` is what the cluster holds when all is quiet again; None: nobody looked. `steps` says which steps
    make up a task, by request id."""

    calls: list[Call] = field(default_factory=list)
    effects: list[Effect] = field(default_factory=list)
    end: Mapping[str, View] | None = None
    ended_at: int = FOREVER - 1
    steps: dict[str, tuple[str, ...]] = field(default_factory=dict)
    closed: bool = True
