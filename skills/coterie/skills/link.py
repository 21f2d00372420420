"""What a run knows of itself, and its way to the node."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


class Link(Protocol):
    """The way to the node, as the context needs it."""

    async def record_step(self, key: str, result: bytes, beside: Sequence[str] = ()) -> None:
        """Return when the result is committed. `beside`: see Replay. Raises Fenced or NotRecorded."""

    async def save_checkpoint(self, state: bytes) -> None:
        """Return when the state is committed. Raises Fenced or NotRecorded."""

    def report_progress(self, percent: float, message: str) -> None:
        """Pass on the newest progress; earlier ones may be dropped."""

    async def wait(self, reason: str, name: str, seen: int, timeout_ms: int) -> bytes | None:
        """What came under that name after `seen` others; None: the wait ran out. Where nothing has come yet,
        the run ends here, and a later attempt comes to this call again. Raises Fenced or NotRecorded."""

    async def call(self, name: str, args: Any) -> Any:
        """Have the node do `name` with these JSON arguments; what it answered. Whether something was recorded
        is up to the call. Raises Fenced, CallFailed (a later attempt may fare better), CallRefused."""

    async def call_in_thread(self, function: Callable[[], Any]) -> Any:
        """Run a blocking function beside the loop."""


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What the node said about this run."""

    task_id: str
    attempt: int
    node_id: str
    steps: Mapping[str, bytes] = field(default_factory=dict)
    checkpoint: bytes | None = None
    step_bytes_max: int = 1024 * 1024
    checkpoint_bytes_max: int = 1024 * 1024
    revision: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict, repr=False)
    checkpointed: int = 0  # how many of the steps came before it; 0: not known
    beside: Mapping[str, Sequence[str]] = field(default_factory=dict)  # by step: see Replay
