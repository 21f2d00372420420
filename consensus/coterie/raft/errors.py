"""What can go wrong in the Raft shell, as types: each says what happened, where, and what to do."""

from __future__ import annotations

from coterie.core.ports import NotCommitted


class FatalRaftError(Exception):
    """Safety cannot be kept any more: the node must stop and must not send anything."""


class DiskFailed(FatalRaftError):
    """A write or an fsync failed. What is on the disk is unknown, so nothing may be promised any more."""


class DamagedFile(FatalRaftError):
    """A file holds bytes that were once durable and are not what was written."""

    def __init__(self, path: str, offset: int, problem: str) -> None:
        super().__init__(
            f"{path} is damaged at byte {offset}: {problem}. Remedy: do not edit or truncate it; restore "
            "this node's data directory from a backup, or replace the node by one with a new id and an "
            "empty directory"
        )
        self.path, self.offset = path, offset


class WrongDataDir(FatalRaftError):
    """The data directory belongs to another node or cluster, is in use, or has a newer format."""


class BadFrame(Exception):
    """A peer sent bytes that are no frame of ours. The link must be dropped; the node goes on."""


class EntryTooLarge(ValueError):
    """The entry is above the engine's limit; it was not proposed."""


class TooManyProposals(NotCommitted):
    """Too many entries wait here already; this one was certainly not appended. Try again later."""


class TransferFailed(Exception):
    """Leadership did not move to the wanted node in time."""
