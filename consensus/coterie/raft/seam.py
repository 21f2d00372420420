"""The one place that touches PySyncObj: its exact version, its private names, its clock.

The classes of this engine that extend PySyncObj's are all called `SyncObj` too. Python derives a private name
from the class it is written in, so `self.__raftLog` in them *is* the library's own field, and `def
__onMessageReceived` overrides the library's own method. RELIED_ON lists what is used; a test compares it with
the installed library, and the version is pinned."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Protocol, Self

from pysyncobj import syncobj as library
from pysyncobj.node import Node as LibraryNode
from pysyncobj.poller import Poller
from pysyncobj.transport import Transport
from pysyncobj.version import VERSION

from coterie.raft.entry import NO_OP, REGULAR
from coterie.raft.journal import Journal
from coterie.raft.options import RaftOptions

PINNED_VERSION = "0.3.17"
if VERSION != PINNED_VERSION:
    raise ImportError(
        f"coterie overrides private methods of pysyncobj {PINNED_VERSION}, but {VERSION} is installed. "
        f"Remedy: pip install pysyncobj=={PINNED_VERSION}"
    )

FOLLOWER = library._RAFT_STATE.FOLLOWER
CANDIDATE = library._RAFT_STATE.CANDIDATE
LEADER = library._RAFT_STATE.LEADER

# Private methods that are overridden or called, with their parameters.
RELIED_ON_METHODS: dict[str, tuple[str, ...]] = {
    "_SyncObj__applyLogEntries": ("self",),
    "_SyncObj__connectedToAnyone": ("self",),
    "_SyncObj__generateRaftTimeout": ("self",),
    "_SyncObj__onBecomeLeader": ("self",),
    "_SyncObj__onLeaderChanged": ("self",),
    "_SyncObj__onMessageReceived": ("self", "node", "message"),
    "_SyncObj__onNodeConnected": ("self", "node"),
    "_SyncObj__onNodeDisconnected": ("self", "node"),
    "_SyncObj__sendAppendEntries": ("self",),
    "_SyncObj__setCurrentTerm": ("self", "term", "votedForNodeId"),
    "_SyncObj__setState": ("self", "newState"),
    "_SyncObj__tryLogCompaction": ("self",),
    "_checkCommandsToApply": ("self",),
    "_onTick": ("self", "timeToWait"),
}
RELIED_ON_FIELDS: tuple[str, ...] = (
    "_SyncObj__connectedNodes",
    "_SyncObj__lastResponseTime",
    "_SyncObj__leaderCommitIndex",
    "_SyncObj__needLoadDumpFile",
    "_SyncObj__newAppendEntriesTime",
    "_SyncObj__onReadyCalled",
    "_SyncObj__otherNodes",
    "_SyncObj__raftCommitIndex",
    "_SyncObj__raftCurrentTerm",
    "_SyncObj__raftElectionDeadline",
    "_SyncObj__raftLastApplied",
    "_SyncObj__raftLeader",
    "_SyncObj__raftLog",
    "_SyncObj__raftMatchIndex",
    "_SyncObj__raftNextIndex",
    "_SyncObj__raftState",
    "_SyncObj__selfNode",
    "_SyncObj__transferInProgress",
    "_SyncObj__votedForNodeId",
    "_SyncObj__votesCount",
    "_poller",
)
# Names of the library's module that are replaced or read.
RELIED_ON_GLOBALS = ("monotonicTime", "_RAFT_STATE", "_COMMAND_TYPE", "PIPE_NOTIFIER_ENABLED")
assert (library._COMMAND_TYPE.REGULAR, library._COMMAND_TYPE.NO_OP) == (REGULAR, NO_OP)


class Clock(Protocol):
    """Where time and dice come from. Decisions use `monotonic` only; `wall_ms` is data in the entries."""

    def monotonic(self) -> float: ...
    def wall_ms(self) -> int: ...


def use_clock(clock: Clock) -> None:
    """Let the library read this clock. It has one for the whole process, so every step names its own."""
    library.monotonicTime = clock.monotonic


class Node(int, LibraryNode):  # type: ignore[misc]
    """A member by id. It is compared and hashed as the number that its id spells: that is quick, and does not
    depend on the process, so sets of members have one order."""

    id = ""  # an attribute in the place of the library's property

    def __new__(cls, node_id: str) -> Self:
        return super().__new__(cls, int.from_bytes(node_id.encode(), "big"))

    def __init__(self, node_id: str) -> None:
        LibraryNode.__init__(self, node_id)
        self.__dict__["id"] = node_id  # the library lets nobody assign it

    def __repr__(self) -> str:
        return f"Node({self.id!r})"

    __str__ = __repr__


class NullPoller(Poller):  # type: ignore[misc]
    """The event loop watches the connections; the library has nothing to poll."""

    def subscribe(self, descr: object, callback: object, eventMask: object) -> None: ...
    def unsubscribe(self, descr: object) -> None: ...
    def poll(self, timeout: float) -> None: ...


class LibraryTransport(Transport):  # type: ignore[misc]
    """Hands the messages that the library makes itself (it makes them as dicts) to our outbox."""

    def __init__(self, send: Callable[[Node, dict[str, Any]], bool]) -> None:
        super().__init__(None, None, None)
        self._send = send

    def send(self, node: Node, message: dict[str, Any]) -> bool:
        return self._send(node, message)


class SyncObj(library.SyncObj):  # type: ignore[misc]
    """PySyncObj without its threads, sockets, files and pickles; the fields we use, typed."""

    __raftLog: Journal
    __otherNodes: set[Node]
    __connectedNodes: set[Node]
    __raftState: int
    __raftCurrentTerm: int
    __raftLeader: Node | None
    __raftElectionDeadline: float
    __raftCommitIndex: int
    __raftLastApplied: int
    __raftMatchIndex: dict[Node, int]
    __lastResponseTime: dict[Node, float]
    # The members besides this one, by id; the configuration decides (see membership.py).
    _peers: list[Node]
    _others: list[Node]  # those that vote
    _majority: int
    _is_voter: bool
    _asked = False  # for something, or told of something, since the last step: the next one is due

    def __init__(self, options: RaftOptions, journal: Journal, clock: Clock, rng: random.Random) -> None:
        self._options, self._clock, self._rng = options, clock, rng
        self._now = clock.monotonic  # read many times in every step
        self._nodes = {options.node_id: Node(options.node_id)}  # all we ever heard of
        self._log = journal  # the library's constructor looks at every property
        use_clock(clock)
        super().__init__(
            self._nodes[options.node_id],
            [],
            _library_conf(options),
            transport=LibraryTransport(self._send_library_message),
        )
        self._poller = NullPoller()
        self._use_journal(journal)

    def _use_journal(self, journal: Journal) -> None:
        """What the library's constructor does with its own journal, done with ours."""
        self.__raftLog = journal
        self.__raftCurrentTerm = max(journal.getCurrentTerm(), journal[-1][2])
        self.__votedForNodeId = journal.getVotedForNodeId()
        self.__raftCommitIndex = self.__raftLastApplied = journal.base.index
        self.__needLoadDumpFile = False  # snapshots are loaded by the member, before the first tick

    def _send_library_message(self, node: Node, message: dict[str, Any]) -> bool:
        raise NotImplementedError

    def __generateRaftTimeout(self) -> float:
        timeout = self._options.election_timeout_s
        return timeout + timeout * self._rng.random()

    def __tryLogCompaction(self) -> None:
        """The member makes snapshots in its own way."""

    # --- what is read all the time ---

    @property
    def term(self) -> int:
        return self.__raftCurrentTerm

    @property
    def commit_index(self) -> int:
        return self.__raftCommitIndex

    @property
    def applied_index(self) -> int:
        return self.__raftLastApplied

    @property
    def is_leader(self) -> bool:
        return bool(self.__raftState == LEADER)

    @property
    def leader(self) -> str:
        node = self.__raftLeader
        return str(node.id) if node is not None else ""

    def _is_up(self, node: Node) -> bool:
        return node in self.__connectedNodes


def _library_conf(options: RaftOptions) -> library.SyncObjConf:
    timeout = options.election_timeout_s
    return library.SyncObjConf(
        autoTick=False,
        appendEntriesUseBatch=True,  # else the library opens a pipe to wake its own poller
        raftMinTimeout=timeout,
        raftMaxTimeout=2 * timeout,
        appendEntriesPeriod=options.heartbeat_s,
        leaderFallbackTimeout=timeout,
        connectionTimeout=2 * timeout + 1,
    )
