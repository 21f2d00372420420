"""What is in a backup, said in the backup itself.

A backup is a POSIX tar archive (ustar), which any tar lists and unpacks:

    backup.json        the head: format, of which cluster, at which index of its log
    state/00000000 …   the replicated state as of that index, coterie.v1.StateSlice
    history/00000000 … finished tasks and events of the ledger, coterie.v1.LedgerRows
    blobs/<sha256> …   large payloads, results and checkpoints that these refer to
    manifest.json      the head again, and every member above with its size and SHA-256
    manifest.sha256    the SHA-256 of manifest.json, in hex: without it the archive is not complete"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

FORMAT: Final = 1
HEAD, MANIFEST, SEAL = "backup.json", "manifest.json", "manifest.sha256"
STATE, HISTORY, BLOBS = "state/", "history/", "blobs/"


class BadBackup(Exception):
    """A file that is no whole backup; the text names the file, the byte where it goes wrong, the remedy."""


@dataclass(frozen=True, slots=True)
class Head:
    """Of which cluster and moment a backup is. `at_ms`: the newest time in the log; `made_at_ms`: the clock
    of the node that made it."""

    cluster_id: str
    cluster_name: str
    index: int
    term: int
    at_ms: int
    made_at_ms: int
    node: str
    version: str
    with_history: bool = True
    format: int = FORMAT

    def encode(self) -> bytes:
        return json.dumps(asdict(self), indent=2).encode() + b"\n"


@dataclass(frozen=True, slots=True)
class Entry:
    name: str
    size: int
    sha256: str


@dataclass(slots=True)
class Manifest:
    """`absent`: blobs that something refers to, and that no node had any more when the backup was made.
    `history_gaps`: parts of the log (behind the first index, up to the second) of which the ledger of the
    node that made the backup lacked rows; `history_through`: the index up to the first of them."""

    head: Head
    members: list[Entry] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    history_through: int = 0
    history_gaps: list[tuple[int, int]] = field(default_factory=list)

    def encode(self) -> bytes:
        return json.dumps(asdict(self)).encode() + b"\n"


def read_head(raw: bytes, where: str) -> Head:
    """Raises BadBackup for a format that this version does not know, or no head at all."""
    values = _object(raw, where)
    found = values.get("format")
    if found != FORMAT:
        raise BadBackup(
            f"{where}: format {found!r} of a backup, this version reads format {FORMAT}. Remedy: use the "
            f"version that wrote it ({values.get('version', 'it does not say which')}), or a later one"
        )
    try:
        return Head(**{name: values[name] for name in Head.__dataclass_fields__})
    except KeyError as error:
        raise BadBackup(f"{where}: {error.args[0]} is missing") from error


def read_manifest(raw: bytes, where: str) -> Manifest:
    """Raises BadBackup."""
    values = _object(raw, where)
    try:
        head = read_head(json.dumps(values["head"]).encode(), where)
        members = [Entry(one["name"], one["size"], one["sha256"]) for one in values["members"]]
        through = int(values["history_through"])
        # Before gaps were noted, the history ended at the first of them.
        rest = [(through, head.index)] if head.with_history and through < head.index else []
        gaps = [(int(after), int(up_to)) for after, up_to in values.get("history_gaps", rest)]
        return Manifest(head, members, list(values["absent"]), through, gaps)
    except (KeyError, TypeError, ValueError) as error:
        raise BadBackup(f"{where}: it is not what a manifest looks like ({error!r})") from error


def _object(raw: bytes, where: str) -> Mapping[str, Any]:
    try:
        values = json.loads(raw)
    except ValueError as error:
        raise BadBackup(f"{where}: it is no JSON ({error})") from error
    if not isinstance(values, dict):
        raise BadBackup(f"{where}: it is no JSON object")
    return values
