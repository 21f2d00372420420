"""Everything that reads bytes it did not write: what goes in, and which refusals are right.

A target's `read` raises only the refusals named beside it; whatever else it raises is a fault of ours."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from google.protobuf.message import DecodeError

from coterie.core.canonical import state_hash
from coterie.core.nouns import Task
from coterie.core.state import ClusterState
from coterie.node.admission import Admission, AdmissionLimits
from coterie.node.direct import DirectLink, Me
from coterie.node.errors import ApiError
from coterie.node.filters import FilterError, parse_filter
from coterie.raft import codec
from coterie.raft import snapshot as snapshots
from coterie.raft.entry import is_valid, seal
from coterie.raft.errors import BadFrame, DamagedFile, NewerVersion, WrongDataDir
from coterie.raft.journal import NAME as JOURNAL
from coterie.raft.journal import Journal
from coterie.raft.journal_format import Identity
from coterie.raft.replica import Replica
from coterie.raft.wire import Wire
from coterie.skills.frames import FrameDecoder, FrameError, encode_frame
from coterie.v1 import log_pb2, tasks_pb2
from tests.core.builders import CoreCluster, RandomLog
from tests.raft.test_wire import MESSAGES
from tests.sim.raft.disk import SimDisk

CLUSTER = "blue"
ME = Identity(CLUSTER, "n1")
WIRE = Wire(CLUSTER, 1 << 16)


@dataclass(frozen=True, slots=True)
class Target:
    """`corpus` is made once; `read` gets one input."""

    corpus: Callable[[], Sequence[bytes]]
    read: Callable[[bytes], None]
    refusals: tuple[type[Exception], ...]


# --- raft


@cache
def frames() -> list[bytes]:
    return [WIRE.encode([message]) for message in MESSAGES] + [WIRE.encode(MESSAGES)]


def read_frame(data: bytes) -> None:
    for message in WIRE.decode(data):
        assert type(message) in {type(known) for known in MESSAGES}


@cache
def batches() -> list[bytes]:
    history = RandomLog(5)
    return [codec.encode_batch(history.take(count)) for count in (1, 1, 2, 3, 5, 8) * 8]


def apply_entry(data: bytes) -> None:
    """Whatever is in an entry, applying it twice gives the same, and raises nothing but NewerVersion."""
    assert is_valid(seal(5, bytes(16), data))
    replicas = [Replica(lambda index, events: None, lambda index: None) for _ in range(2)]
    outcomes = [replica.apply(1, 1_000, data) for replica in replicas]
    assert outcomes[0] == outcomes[1]
    assert state_hash(replicas[0].state) == state_hash(replicas[1].state)


# --- files


def _file(name: str, data: bytes) -> SimDisk:
    disk = SimDisk(random.Random(1))
    file = disk.create(name)
    file.append(data)
    file.sync()
    disk.sync_dir()
    return disk


@cache
def journal_bytes() -> bytes:
    disk = SimDisk(random.Random(1))
    journal = Journal(disk, ME, random.Random(2))
    for index in range(2, 12):
        journal.add(seal(index, index.to_bytes(16, "big"), bytes([index]) * 5 * index), index, 1 + index // 5)
        if index % 3 == 0:
            journal.setCurrentTerm(1 + index // 5, "n2")
        journal.write(journal.take_block())
    return disk.read(JOURNAL)


@cache
def journal_entries() -> list[object]:
    return list(Journal(_file(JOURNAL, journal_bytes()), ME, random.Random(3))[:])


def read_journal(data: bytes) -> None:
    """It refuses, or what it finds is what was written, but for a torn end."""
    found = list(Journal(_file(JOURNAL, data), ME, random.Random(3))[:])
    assert found == journal_entries()[: len(found)], "silently wrong"


@cache
def state() -> ClusterState:
    cluster = CoreCluster()
    history = RandomLog(9)
    for command in history.take(300):
        cluster.do(command)
    return cluster.state


@cache
def images() -> list[bytes]:
    """The whole, and the slices that mean something alone: families and runs go on where others ended."""
    slices = list(codec.encode_state(state()))
    read = [(piece, log_pb2.StateSlice.FromString(piece)) for piece in slices]
    alone = [piece for piece, what in read if not (what.family_parts or what.node_runs)]
    return [*alone, b"".join(slices)]


def read_image(data: bytes) -> None:
    state_hash(codec.decode_state([data]))


@cache
def snapshot_bytes() -> bytes:
    return snapshot_of(state(), snapshots.Meta(9, 2, 5))


def snapshot_of(held: ClusterState, meta: snapshots.Meta) -> bytes:
    """The file that has that state in it."""
    pieces = list(codec.encode_state(held))
    parts = [snapshots.header(meta, CLUSTER)]
    parts += [snapshots.chunk(number, piece) for number, piece in enumerate(pieces)]
    parts.append(snapshots.end(len(pieces), sum(map(len, pieces))))
    return b"".join(parts)


def read_snapshot(data: bytes) -> None:
    store = snapshots.SnapshotStore(_file(snapshots.NAME, data), CLUSTER)
    assert store.current == snapshots.Meta(9, 2, 5), "silently wrong"
    assert state_hash(codec.decode_state(store.image())) == state_hash(state()), "silently wrong"


def read_record(data: bytes) -> None:
    codec.decode(Task, data)


@cache
def records() -> list[bytes]:
    every = [*state().tasks.values(), *state().finished.values()]
    return [codec.encode(task) for task in every[:20]]


# --- skills


@cache
def skill_frames() -> list[bytes]:
    header = {"op": "run", "task_id": "t1", "attempt": 3, "steps": [["a", 4]]}
    return [
        encode_frame(header, b"body"),
        encode_frame({"op": "ready"}),
        encode_frame({"op": "x"}, b"y" * 99),
    ]


def read_skill_frame(data: bytes) -> None:
    decoder = FrameDecoder(1 << 16)
    for part in (data[: len(data) // 2], data[len(data) // 2 :]):
        for frame in decoder.feed(part):
            assert isinstance(frame.header["op"], str)


# --- the ports


class _Transport:
    """Takes everything, and says whether the link was given up."""

    def __init__(self) -> None:
        self.aborted = False

    def get_extra_info(self, name: str) -> None:
        return None

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.aborted

    def set_write_buffer_limits(self, high: int) -> None:
        pass

    def write(self, data: bytes) -> None:
        assert data

    def abort(self) -> None:
        self.aborted = True


class _Sink:
    """Decodes what comes in, as the engine does."""

    def link_up(self, peer: str, link: object, disk_id: str = "") -> None:
        assert peer in {"n1", "n2"}

    def link_down(self, peer: str, link: object) -> None:
        """Nothing to forget."""

    def receive(self, peer: str, link: object, frame: bytes) -> None:
        WIRE.decode(frame)


def _hello() -> bytes:
    said = Me("n2", CLUSTER, 1 << 16).hello()
    return len(said).to_bytes(4, "big") + said


@cache
def connections() -> list[bytes]:
    sent = [len(frame).to_bytes(4, "big") + frame for frame in frames()]
    return [_hello(), *(_hello() + frame for frame in sent), _hello() + bytes(4) + b"".join(sent)]


def read_connection(data: bytes) -> None:
    """What a stranger sends to the port for Raft frames ends his connection at the most."""
    transport = _Transport()
    link = DirectLink(Me("n1", CLUSTER, 1 << 16), _Sink(), {"n2"})
    link.connection_made(transport)  # type: ignore[arg-type]
    link.data_received(data)
    link.connection_lost(None)


@cache
def requests() -> list[bytes]:
    made = tasks_pb2.SubmitTaskRequest(parent="tenants/default", request_id="r1")
    made.task.type, made.task.priority, made.task.task_id = "echo", tasks_pb2.HIGH, "t1"
    made.task.payload.inline = b"{}"
    made.task.labels["a"] = "b"
    made.task.constraints.zones.append("z")
    return [made.SerializeToString()]


def admit(data: bytes) -> None:
    request = tasks_pb2.SubmitTaskRequest.FromString(data)
    Admission(AdmissionLimits()).command(request, "id", {"echo"}, {"n1"})


def filters() -> list[bytes]:
    return [b'state=RUNNING AND type="map" AND labels.team="x"', b"state=FAILED"]


def read_filter(data: bytes) -> None:
    parse_filter(data.decode("utf-8", "replace"))


TARGETS: dict[str, Target] = {
    "raft frame": Target(frames, read_frame, (BadFrame,)),
    "raft connection": Target(connections, read_connection, ()),
    "log entry": Target(batches, apply_entry, (NewerVersion,)),
    "journal file": Target(lambda: [journal_bytes()], read_journal, (DamagedFile, WrongDataDir)),
    "snapshot file": Target(lambda: [snapshot_bytes()], read_snapshot, (DamagedFile, WrongDataDir)),
    "state image": Target(images, read_image, (DecodeError, ValueError, NewerVersion)),
    "single record": Target(records, read_record, (DecodeError, ValueError)),
    "skill frame": Target(skill_frames, read_skill_frame, (FrameError,)),
    "submission": Target(requests, admit, (DecodeError, ApiError)),
    "list filter": Target(filters, read_filter, (FilterError,)),
}
