"""After a failed sync nothing that the ledger wrote may be relied on: it says so and writes no more."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.chaos.tools import needs
from tests.chaos.tools.shim import Shim

# Writes until told otherwise. Prints what it has flushed, and why it writes no more.
LEDGER = """
    import asyncio, sys
    from pathlib import Path
    from coterie.node.ledger import Ledger, LedgerClosed, LedgerOptions, store
    from tests.node.ledger_tools import append, until

    store._CHECKPOINT_COMMITS = 3

    async def main():
        told = []
        options = LedgerOptions(batch_ms=1, retry_initial_ms=1)
        ledger = await Ledger.open(Path(sys.argv[1]), options, told.append)
        append(ledger, 1, 10)
        await ledger.flush(10)
        Path(sys.argv[2]).write_text("error 5 100 ledger.db-wal")
        flush = None
        for number in range(11, 40):
            append(ledger, number, number)
            if sys.argv[3] == "flush" and flush is None:
                flush = asyncio.ensure_future(ledger.flush(number))
            await asyncio.sleep(0.01)
        await until(lambda: told)
        Path(sys.argv[2]).write_text("none")
        assert len(told) == 1 and "fsync of" in told[0] and "disk I/O error" in told[0], told
        await asyncio.sleep(0.1)
        assert ledger.backlog > 0 and ledger.flushed_index == 10, "another sync would say that all is well"
        await ledger.close()
        if flush is not None:
            assert isinstance(flush.exception(), LedgerClosed), flush
        ledger = await Ledger.open(Path(sys.argv[1]))
        assert ledger.flushed_index >= 10 and (await ledger.counts())["SUCCEEDED"] == ledger.flushed_index
        await ledger.close()
        print("fine")

    asyncio.run(main())
"""


@pytest.mark.parametrize("how", ["flush", "checkpoint"])
def test_a_failed_sync_is_told_and_ends_all_writing(tmp_path: Path, how: str) -> None:
    """Those who wait for the disk are not the only ones to notice: so does a checkpoint."""
    if lacks := needs.missing(*needs.SHIM):
        pytest.skip(f"this machine lacks {lacks}")
    shim = Shim(tmp_path / "shim", ["n"])
    rule = shim.env("n")["DISKFAULT_RULE"]
    environment = {**os.environ, **shim.env("n"), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", textwrap.dedent(LEDGER), str(tmp_path / "ledger.db"), rule, how]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout == "fine\n", done.stderr
