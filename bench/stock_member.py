"""One member of stock PySyncObj as its documentation starts it: own thread, sockets, journal (no fsync).

{"id", "addresses", "directory"}               -> {"started": true}
{"ask": "state"}                               -> {"leader", "has_quorum", "applied"}
{"ask": "load", "outstanding", "seconds", …}   -> {"latencies_ms", "seconds"}"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from pysyncobj import SyncObj, SyncObjConf, replicated

FINISH_S = 30.0
NEVER = 10**7


class Counter(SyncObj):  # type: ignore[misc]
    """Counts the operations."""

    def __init__(self, plan: dict[str, Any]) -> None:
        directory = Path(plan["directory"])
        directory.mkdir(parents=True, exist_ok=True)
        conf = SyncObjConf(
            journalFile=str(directory / "journal"),
            fullDumpFile=str(directory / "dump"),
            appendEntriesUseBatch=False,  # with it a commit waits for the 50 ms tick
            logCompactionMinEntries=NEVER,
            logCompactionMinTime=NEVER,
        )
        self.applied = 0
        me = plan["addresses"][plan["id"]]
        super().__init__(me, [other for other in plan["addresses"].values() if other != me], conf)

    @replicated  # type: ignore[untyped-decorator]
    def count(self, entry: bytes) -> int:
        self.applied += 1
        return self.applied


class Load:
    """Keeps so many operations under way; each answer starts the next."""

    def __init__(self, counter: Counter, plan: dict[str, Any]) -> None:
        self._counter = counter
        self._entry = b"." * plan["entry_bytes"]
        self._until = time.monotonic() + plan["seconds"]
        self._left = plan["outstanding"]
        self._ended = threading.Event()
        self._latencies_ms: list[float] = []
        self._failed = 0

    def run(self) -> dict[str, Any]:
        began = time.monotonic()
        for _ in range(self._left):
            self._next()
        if not self._ended.wait(self._until - began + FINISH_S):
            return {"error": f"{self._left} operations were never answered"}
        if self._failed:
            return {"error": f"{self._failed} operations failed"}
        return {"latencies_ms": self._latencies_ms, "seconds": time.monotonic() - began}

    def _next(self) -> None:
        sent = time.monotonic()

        def done(_: object, failed: int) -> None:
            now = time.monotonic()
            self._failed += bool(failed)
            self._latencies_ms.append((now - sent) * 1000)
            if now < self._until and not failed:
                self._next()
                return
            self._left -= 1
            if self._left == 0:
                self._ended.set()

        self._counter.count(self._entry, callback=done)


def answer(counter: Counter, addresses: dict[str, str], question: dict[str, Any]) -> dict[str, Any]:
    """One line out for one line in."""
    if question["ask"] == "load":
        return Load(counter, question).run()
    leader = str(counter.getStatus()["leader"])
    names = {address: name for name, address in addresses.items()}
    return {
        "leader": names.get(leader, ""),
        "has_quorum": counter.isReady(),
        "applied": counter.applied,
        "digest": 0,
    }


def main() -> None:
    plan = json.loads(sys.stdin.readline())
    counter = Counter(plan)
    print(json.dumps({"started": True}), flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(counter, plan["addresses"], json.loads(line))), flush=True)
    os._exit(0)  # its threads have no orderly end


if __name__ == "__main__":
    main()
