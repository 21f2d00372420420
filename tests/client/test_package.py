"""What importing the client brings along, and that a program that used it ends without a complaint."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import coterie.client
from tests.client.fake import FakeCluster

ROOTS = [str(Path(__file__).parents[2] / room) for room in ("proto", "node")]

PROGRAM = """
import asyncio, logging, sys
logging.basicConfig(level=logging.DEBUG)
logging.getLogger("asyncio").setLevel(logging.INFO)
from coterie.client import Cluster, Timeouts, WaitTimeout

async def main(endpoints):
    async with Cluster(endpoints, timeouts=Timeouts(probe=0.05)) as c:
        jobs = await c.submit_tasks([{"type": "echo"}] * 20)
        follower = await c.submit_task(type="echo", on_progress=print)
        try:
            await asyncio.gather(*(job.wait(timeout=0.3) for job in jobs))
        except WaitTimeout:
            pass
        waits = [asyncio.create_task(job.wait()) for job in jobs]
        async for event in follower.watch():
            break
        await c.get_status()
    print([type(e).__name__ for e in await asyncio.gather(*waits, return_exceptions=True)][:1])

asyncio.run(main(sys.argv[1]), debug=True)
"""


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    code = f"import sys; sys.path[:0] = {ROOTS!r}\n{program}"
    return subprocess.run(
        [sys.executable, "-W", "error", "-X", "dev", "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


def test_the_import_is_light() -> None:
    done = run("import coterie.client, coterie.client.sync; print(*sorted(sys.modules))")
    assert done.stderr == ""
    tops = {name.partition(".")[0] for name in done.stdout.split()}
    ours = {name for name in done.stdout.split() if name.startswith("coterie.") and name.count(".") == 1}
    assert tops.isdisjoint({"pydantic", "openai", "networkx", "yaml", "pysyncobj", "click", "rich", "uvloop"})
    assert ours == {"coterie.client", "coterie.v1"}


async def test_a_program_ends_without_a_complaint(fake: FakeCluster) -> None:
    import asyncio

    endpoints = ",".join(node.address for node in fake.nodes)
    done = await asyncio.to_thread(run, PROGRAM, endpoints)
    assert (done.returncode, done.stdout) == (0, "['ClusterClosed']\n"), done.stderr
    complaints = [line for line in done.stderr.splitlines() if "grpc_poll" not in line]
    assert not [line for line in complaints if "never" in line or "Warning" in line or "ERROR" in line]


def test_every_public_name_exists() -> None:
    assert all(hasattr(coterie.client, name) for name in coterie.client.__all__)
    assert sorted(coterie.client.__all__) == sorted(set(coterie.client.__all__))
