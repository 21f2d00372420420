"""The node's folders among the temporary files: what confined skills run from and work in. They cannot lie
in the data directory, which nobody but the node may enter."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import stat
import tempfile
import threading
from pathlib import Path

from coterie.node.skillhost.trees import remove_tree

RUNS, SKILLS = "runs", "skills"

log = logging.getLogger(__name__)


def scratch_name(node_id: str, data_dir: Path) -> str:
    """The same at each start of the node, and no other node's: one process at a time holds the directory."""
    return f"coterie-{node_id}-{hashlib.sha256(os.fsencode(data_dir.resolve())).hexdigest()[:12]}"


def clear_scratch(name: str) -> None:
    """Remove what a process of this node that was killed has left."""
    for part in (RUNS, SKILLS):
        Scratch(part, name).clear()


class Scratch:
    """One such folder: made when it is first asked for, and again when somebody has tidied it away. Without a
    name it is a new one each time. Blocks; may be used by several threads."""

    def __init__(self, part: str, name: str = "", base: Path | None = None, mode: int = 0o711) -> None:
        self._name = f"{name}-{part}" if name else ""
        self._part, self._base, self._mode = part, base, mode
        self._made: Path | None = None
        self._held = -1
        self._lock = threading.Lock()

    def folder(self) -> Path:
        """It is there. Raises OSError."""
        with self._lock:
            if self._made is None or not _is_own(self._made):
                self._made = self._make(is_new=self._made is None)
            return self._made

    def clear(self) -> None:
        """Remove it and what is in it."""
        with self._lock:
            self._let_go()
            for place in {self._made, self._fixed()} - {None}:
                if place is not None and _is_own(place):
                    remove_tree(place)
            self._made = None

    def _fixed(self) -> Path | None:
        return (self._base or Path(tempfile.gettempdir())) / self._name if self._name else None

    def _make(self, is_new: bool) -> Path:
        place = self._fixed()
        if place is not None and is_new and _is_own(place):
            remove_tree(place)
        try:
            if place is not None:
                place.mkdir(mode=0o700)
        except FileExistsError:
            log.warning("a folder is somebody else's; another is used", extra={"folder": str(place)})
            place = None
        if place is None:
            place = Path(tempfile.mkdtemp(prefix=f"coterie-{self._part}-", dir=self._base))
        place.chmod(self._mode)
        self._hold(place)
        return place

    def _hold(self, place: Path) -> None:
        """systemd-tmpfiles leaves alone what is locked, with all that is in it."""
        self._let_go()
        self._held = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        with contextlib.suppress(OSError):
            fcntl.flock(self._held, fcntl.LOCK_SH | fcntl.LOCK_NB)

    def _let_go(self) -> None:
        if self._held >= 0:
            os.close(self._held)
            self._held = -1


def skills_scratch(node_id: str, data_dir: Path) -> Scratch:
    """For the files of published skills: the users that confined ones run as may read them."""
    return Scratch(SKILLS, scratch_name(node_id, data_dir), mode=0o755)


def _is_own(place: Path) -> bool:
    """A folder of ours, not somebody else's nor a link of theirs: anybody may write among temporary files."""
    try:
        found = place.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
