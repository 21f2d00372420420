"""Slow, failing and lying fsyncs of single nodes, by a library that is loaded before libc."""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Sequence
from pathlib import Path

SOURCE = Path(__file__).with_name("shim.c")


def compiled(source: Path, folder: Path) -> Path:
    """The shared library made of one C file. Raises RuntimeError with what the compiler said."""
    library = folder / source.with_suffix(".so").name
    command = ["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return library


class Shim:
    """The compiled library, and one rule file and one log per node."""

    def __init__(self, folder: Path, node_ids: Sequence[str]) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.library = compiled(SOURCE, folder)
        for node_id in node_ids:
            self.well(node_id)

    def env(self, node_id: str) -> dict[str, str]:
        return {
            "LD_PRELOAD": str(self.library),
            "DISKFAULT_RULE": str(self._rule(node_id)),
            "DISKFAULT_LOG": str(self._log(node_id)),
        }

    def well(self, node_id: str) -> None:
        self._write(node_id, "none")

    def slow(self, node_id: str, delay_ms: int) -> None:
        """Every fsync takes that much longer."""
        self._write(node_id, f"slow {delay_ms} 0")

    def fail(self, node_id: str, percent: int, only: str = "") -> None:
        """EIO for `percent` of the fsyncs of files whose path contains `only`."""
        self._write(node_id, f"error {errno.EIO} {percent} {only}")

    def lie(self, node_id: str) -> None:
        """Say that it is on the disk, and do nothing."""
        self._write(node_id, "lie 0 0")

    def kill(self, node_id: str, when: str, number: int, only: str = "") -> None:
        """kill -9 of the node at its so-manieth fsync from now on, `when` "before" or "after" it is done."""
        self._write(node_id, f"kill-{when} {number} 0 {only}")

    def failures(self, node_id: str) -> list[tuple[float, str]]:
        """(when on the monotonic clock, in seconds; path) of every error made so far."""
        path = self._log(node_id)
        lines = path.read_text().splitlines() if path.exists() else []
        return [(float(line.split()[0]), line.split()[2]) for line in lines]

    def forget(self, node_id: str) -> None:
        """Start a fresh log of errors."""
        self._log(node_id).unlink(missing_ok=True)

    def _write(self, node_id: str, rule: str) -> None:
        # By rename: the library must never read half a rule.
        fresh = self._folder / f"{node_id}.new"
        fresh.write_text(rule + "\n", encoding="ascii")
        fresh.rename(self._rule(node_id))

    def _rule(self, node_id: str) -> Path:
        return self._folder / f"{node_id}.rule"

    def _log(self, node_id: str) -> Path:
        return self._folder / f"{node_id}.errors"
