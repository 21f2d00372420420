"""The settings of one member of the Raft group, checked when they are made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class RaftOptions:
    """`peers` are the ids of the first voters, this node included, and `addresses` where they are reached;
    both count only until the log says who the members are. With `join` there are none: this node waits until
    a leader sends it the log of a group it was added to. Sizes are bytes, times are milliseconds.

    Election timeouts are drawn from [election_timeout_ms, 2 * election_timeout_ms)."""

    node_id: str
    peers: tuple[str, ...]
    data_dir: Path
    join: bool = False
    addresses: Mapping[str, str] = field(default_factory=dict)
    cluster_id: str = "coterie"
    election_timeout_ms: int = 1_000
    heartbeat_ms: int = 100
    entry_bytes_max: int = 4 * MIB + 64 * 1024  # of one proposal
    append_bytes_max: int = 1 * MIB  # of entries in one message; a larger entry travels alone
    append_entries_max: int = 1_024
    window_messages_max: int = 64  # unanswered messages with entries per follower
    window_bytes_max: int = 16 * MIB
    outstanding_max: int = 4_096  # proposals of this node that wait for their outcome
    outstanding_bytes_max: int = 64 * MIB
    uncommitted_max: int = 8_192  # entries the leader appends ahead of the commit index
    uncommitted_bytes_max: int = 64 * MIB
    reads_max: int = 16_384  # read barriers waiting on this node
    apply_max: int = 256  # entries applied before the event loop gets a turn
    snapshot_every_entries: int = 50_000
    snapshot_every_bytes: int = 64 * MIB
    snapshot_keep_entries: int = 2_000  # kept behind a snapshot for followers that lag a little
    snapshot_keep_bytes: int = 8 * MIB
    snapshot_slice_bytes: int = 1 * MIB  # written and synced in one go
    snapshot_chunk_bytes: int = 256 * 1024  # of one message while it is sent
    snapshot_window: int = 16  # unanswered chunks
    disk_low_bytes: int = 64 * MIB  # free; with less, only what ends work is taken (at most 1/20 of the disk)
    disk_reserve_bytes: int = 8 * MIB  # allocated ahead for that, and for votes (at most 1/20 of the disk)
    slow_disk_ms: int = 100  # a leader whose syncs stay above this hands over to a node with a faster disk

    election_timeout_s: float = field(init=False, repr=False)  # the same as above, as clocks count
    heartbeat_s: float = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "election_timeout_s", self.election_timeout_ms / 1000)
        object.__setattr__(self, "heartbeat_s", self.heartbeat_ms / 1000)
        problems = list(self._problems())
        if problems:
            raise ValueError("raft options: " + "; ".join(problems))

    def _problems(self) -> list[str]:
        found = []
        if not self.node_id:
            found.append("node_id is empty: give this node its id")
        if self.join and self.peers:
            found.append(
                f"join is set and peers are {list(self.peers)}: a node that joins has none, leave them out"
            )
        if not self.join and self.node_id not in self.peers:
            found.append(f"peers {list(self.peers)} do not hold node_id {self.node_id!r}: add it")
        doubled = sorted({peer for peer in self.peers if self.peers.count(peer) > 1})
        if doubled:
            found.append(f"peers name {doubled} more than once: every voter needs an id of its own")
        if "" in self.peers:
            found.append("peers hold an empty id: remove it")
        if not self.cluster_id:
            found.append("cluster_id is empty: give the cluster its id")
        for name in LIMITS:
            value = getattr(self, name)
            if value < 1:
                found.append(f"{name} is {value}: it must be at least 1")
        if self.heartbeat_ms * 3 >= self.election_timeout_ms:
            found.append(
                f"heartbeat_ms {self.heartbeat_ms} must be below a third of election_timeout_ms "
                f"{self.election_timeout_ms}: lower the one or raise the other"
            )
        return found

    @property
    def frame_bytes_max(self) -> int:
        """No frame this node sends is larger; the transport must let it pass."""
        return max(self.entry_bytes_max + self.append_bytes_max, self.snapshot_chunk_bytes) + 64 * 1024


LIMITS = (
    "election_timeout_ms",
    "heartbeat_ms",
    "entry_bytes_max",
    "append_bytes_max",
    "append_entries_max",
    "window_messages_max",
    "window_bytes_max",
    "outstanding_max",
    "outstanding_bytes_max",
    "uncommitted_max",
    "uncommitted_bytes_max",
    "reads_max",
    "apply_max",
    "snapshot_every_entries",
    "snapshot_every_bytes",
    "snapshot_keep_entries",
    "snapshot_keep_bytes",
    "snapshot_slice_bytes",
    "snapshot_chunk_bytes",
    "snapshot_window",
    "disk_low_bytes",
    "disk_reserve_bytes",
    "slow_disk_ms",
)
