"""What can go wrong in the Raft shell, as types: each says what happened, where, and what to do."""

from __future__ import annotations

from enum import StrEnum

from coterie.core.ports import NotCommitted


class FatalRaftError(Exception):
    """Safety cannot be kept any more: the node must stop and must not send anything."""


class DiskFailed(FatalRaftError):
    """A write or an fsync failed. What is on the disk is unknown, so nothing may be promised any more."""


class DiskFull(Exception):
    """There is no room for a write, or no descriptor for a file. What was half written is cut off again, so
    it may be tried again."""


class DamagedFile(FatalRaftError):
    """A file holds bytes that were once durable and are not what was written."""

    def __init__(self, path: str, offset: int, problem: str) -> None:
        super().__init__(
            f"{path} is damaged at byte {offset}: {problem}. Remedy: do not edit or truncate it; get "
            "the data again from the other nodes with `coterie node resync`"
        )
        self.path, self.offset = path, offset


class WrongDataDir(FatalRaftError):
    """The data directory belongs to another node or cluster, is in use, or has a newer format."""


class UnknownFormat(WrongDataDir):
    """A file's header says a format this program does not know. No checksum covers those bytes in every
    format, so they may as well be damaged."""

    def __init__(self, path: str, offset: int, found: int, known: int) -> None:
        super().__init__(
            f"{path} has format {found} (at byte {offset}), this program knows format {known}. Remedy: run "
            "the version that wrote it, or a later one; if no such version ever ran here, these bytes are "
            "damaged: get the data again from the other nodes with `coterie node resync`"
        )


class NewerVersion(FatalRaftError):
    """The log or the state holds what only a newer version understands. To go on would be to guess."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what} was written by a newer version of this program. Remedy: install the version that the "
            "other nodes run and start this node again; its data is kept"
        )


class RemovedFromCluster(FatalRaftError):
    """The group has removed this node, or its disk, for good. Nothing is wrong with it: it has to stop."""


class BadFrame(Exception):
    """A peer sent bytes that are no frame of ours. The link must be dropped; the node goes on."""


class Why(StrEnum):
    """Why a link is refused, in words a peer can tell apart."""

    REMOVED = "removed"  # this disk was removed from the group and never comes back
    WRONG_DISK = "wrong-disk"  # the id is bound to another disk: this one was wiped or replaced
    STRANGER = "stranger"  # the id is not among the members (yet)


class LinkRefused(BadFrame):
    """The peer may not talk to this node."""

    def __init__(self, why: Why, message: str) -> None:
        super().__init__(message)
        self.why = why


class EntryTooLarge(ValueError):
    """The entry is above the engine's limit; it was not proposed."""


class TooManyProposals(NotCommitted):
    """Too many entries wait here already; this one was certainly not appended. Try again later."""


class NoSpace(NotCommitted):
    """The disks are too full for new work; this entry was certainly not appended. Try again later."""


class TransferFailed(Exception):
    """Leadership did not move to the wanted node in time."""
