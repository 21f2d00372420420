"""One simulated node: disk and clock, which outlive its processes, and the process, while there is one."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pysyncobj import syncobj as library

from coterie.raft import messages as m
from coterie.raft.jobs import Job
from coterie.raft.member import Member
from coterie.raft.options import RaftOptions
from coterie.raft.wire import Wire
from tests.sim.raft.checks import Call, SimMachine, Violation
from tests.sim.raft.disk import SimDisk
from tests.sim.raft.logs import Seen
from tests.sim.raft.timeline import MILLISECOND, NodeClock

ELECTION_MS = 150
STEPS_PER_100_MS_MAX = 800
WIRE = Wire("coterie", 1 << 30)


def options(node_id: str, peers: Sequence[str]) -> RaftOptions:
    """Small limits, so that every limit is reached in every run. Without peers: a node that joins."""
    return RaftOptions(
        node_id=node_id,
        peers=tuple(peers),
        join=not peers,
        data_dir=Path(node_id),
        election_timeout_ms=ELECTION_MS,
        heartbeat_ms=45,
        append_bytes_max=2_000,
        append_entries_max=20,
        window_messages_max=4,
        window_bytes_max=6_000,
        uncommitted_max=60,
        outstanding_max=24,
        apply_max=16,
        snapshot_every_entries=40,
        snapshot_every_bytes=20_000,
        snapshot_keep_entries=8,
        snapshot_slice_bytes=200,
        snapshot_chunk_bytes=128,
        snapshot_window=3,
        disk_low_bytes=5_000,
        disk_reserve_bytes=12_000,
    )


@dataclass(slots=True)
class SimNode:
    """What belongs to one node; `member` is None while it is down."""

    node_id: str
    disk: SimDisk
    clock: NodeClock
    address: str = ""  # empty: where it was first set up
    member: Any = None
    machine: SimMachine | None = None
    paused: bool = False
    gone: bool = False  # removed from the group, or without its disk: it does not come back as it was
    backlog: list[Callable[[], None]] = field(default_factory=list)  # what happened while it was paused
    jobs: deque[Job] = field(default_factory=deque)
    job_running: bool = False
    step_due_us: int | None = None
    alarms: list[int] = field(
        default_factory=list
    )  # moments at which the world looks at it, the next one last
    starts: int = 0
    disk_us: int = 0
    fuse_at: str = ""  # die inside the next job of this name
    spoils: bool = False  # damage what it is sent of a snapshot
    cutting: int = 0
    step_window: int = 0
    steps_in_window: int = 0
    asked: list[Call] = field(default_factory=list)
    seen: Seen = field(default_factory=Seen)
    jobs_done: Counter[str] = field(default_factory=Counter)

    def count_step(self, now_us: int) -> None:
        """A member that asks for step after step without end would burn a core."""
        window = now_us // (100 * MILLISECOND)
        if self.step_window != window:
            self.step_window, self.steps_in_window = window, 0
        self.steps_in_window += 1
        if self.steps_in_window > STEPS_PER_100_MS_MAX:
            raise Violation(f"{self.node_id} spins: {self.steps_in_window} steps in 100 ms")

    def dials(self, other: SimNode) -> bool:
        """As the product's dialer: those with larger ids call, where the log says that the other one is. A
        node that others cannot find, or that is alone, calls everybody; where nobody is known to be, whoever
        looks after it says where the others are now."""
        found = {member.node_id: member.address for member in self.member.members}
        if not self.member.has_quorum:
            return True
        is_found = found.get(self.node_id) == self.address
        return found.get(other.node_id, "") == other.address and (
            other.node_id < self.node_id or not is_found
        )

    @property
    def is_up(self) -> bool:
        return self.member is not None

    @property
    def is_awake(self) -> bool:
        return self.member is not None and not self.paused


class ObjectWire:
    """Hands messages over as they are, in the place of coterie.raft.wire. The runs that use the real one are
    enough for the codec; the others are quicker."""

    def encode(self, messages: Sequence[m.Message]) -> Any:
        return list(messages)

    def decode(self, frame: Any) -> list[m.Message]:
        return list(frame)


def summary(frame: Any) -> list[str]:
    """The messages of a frame, short, for a trace."""
    messages = frame if isinstance(frame, list) else WIRE.decode(frame)
    return [_short(message) for message in messages]


def _short(message: m.Message) -> str:
    values = []
    for name in type(message).__match_args__:
        value = getattr(message, name)
        values.append(f"{name}={len(value) if isinstance(value, list | bytes) else value}")
    return f"{type(message).__name__}({', '.join(values)})"


def _no_replicated_methods(thing: object) -> list[str]:
    """The library's constructor looks through all attributes for replicated methods, twice; ours has none.
    Runs restart members hundreds of times, and a tenth of all time went there."""
    return [] if isinstance(thing, Member) else dir(thing)


library.dir = _no_replicated_methods
