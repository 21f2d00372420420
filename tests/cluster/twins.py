"""A cluster and the one that is restored from its backup, at the same addresses."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from click.testing import CliRunner

from coterie.client import Cluster, Job
from coterie.node.cli.main import cli
from coterie.node.localcluster import LocalCluster
from tests.cluster.conftest import until

NAME = "restored"


def twin(old: LocalCluster, base: Path, ports: Sequence[int] = ()) -> LocalCluster:
    """The same nodes with the same certificates, under another name; at the same addresses, unless other
    ports are given. Not started."""
    options = yaml.safe_load(old.config_path.read_text("utf-8"))
    kept = {key: options[key] for key in ("skills", "distribution") if key in options}
    ports = ports or ports_of(old)
    new = LocalCluster(base_dir=base, capacity=8, ports=ports, options={**kept, "cluster": {"name": NAME}})
    shutil.copytree(old.base_dir / "tls", base / "tls", dirs_exist_ok=True)
    return new


def ports_of(cluster: LocalCluster) -> list[int]:
    return [int(address.rpartition(":")[2]) for address in cluster.addresses.values()]


def data_dir(cluster: LocalCluster) -> Path:
    return Path(yaml.safe_load(cluster.config_path.read_text("utf-8"))["storage"]["dir"])


async def command(*arguments: str) -> tuple[int, Any]:
    """In a thread, because commands run loops of their own."""
    given = [*arguments, "--json"]
    done = await asyncio.to_thread(lambda: CliRunner().invoke(cli, given, standalone_mode=False))
    return int(done.return_value or 0), json.loads(done.stdout)


async def restored(new: LocalCluster, path: Path) -> Any:
    """What `coterie backup restore` says of its work, which has to succeed."""
    data, config = str(data_dir(new)), str(new.config_path)
    code, said = await command("backup", "restore", str(path), "--data", data, "--config", config)
    assert code == 0, said
    return said


@dataclass
class Load:
    """Short tasks, one after the other in a few lanes; those that were acknowledged, in that order."""

    client: Cluster
    lanes: int = 4
    acked: list[Job] = field(default_factory=list)
    acked_at: list[float] = field(default_factory=list)  # monotonic

    async def run(self, while_it_runs: Any) -> Any:
        """The answer of a coroutine, with load around it."""
        lanes = [asyncio.create_task(self._lane(lane)) for lane in range(self.lanes)]
        try:
            return await while_it_runs
        finally:
            for lane in lanes:
                lane.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(*lanes)

    async def reach(self, count: int) -> None:
        async def there() -> bool:
            return len(self.acked) >= count

        await until(there, f"{count} acknowledged tasks", 60)

    async def _lane(self, lane: int) -> None:
        for number in itertools.count():
            request_id = f"load-{lane}-{number}"
            job = await self.client.submit_task(
                type="echo", payload=number, request_id=request_id, wait_when_full=True
            )
            self.acked.append(job)
            self.acked_at.append(time.monotonic())
