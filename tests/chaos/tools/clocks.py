"""Wall clocks of single nodes that can be set while they run, by a library that is loaded before libc."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.chaos.tools.shim import compiled

SOURCE = Path(__file__).with_name("clock.c")


class Clocks:
    """The compiled library, and how far each node's wall clock is off."""

    def __init__(self, folder: Path, node_ids: Sequence[str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._library = compiled(SOURCE, folder)
        for node_id in node_ids:
            self.set(node_id, 0)

    def env(self, node_id: str) -> Mapping[str, str]:
        return {"LD_PRELOAD": str(self._library), "CLOCK_OFFSET": str(self._file(node_id))}

    def set(self, node_id: str, offset_s: int) -> None:
        """So far off from now on; processes that run see it at once."""
        raw = struct.pack("=q", offset_s)
        path = self._file(node_id)
        if not path.exists():
            path.write_bytes(raw)
        with path.open("r+b", buffering=0) as file:  # in place: it is mapped
            file.write(raw)

    def _file(self, node_id: str) -> Path:
        return self._folder / f"{node_id}.offset"
