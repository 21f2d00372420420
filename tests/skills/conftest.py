"""Fixtures: a started host, and a maker of hosts with other options."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import uvloop

from coterie.node.skillhost import SkillHost
from tests.skills.support import Bench, alive, children_of, options

MakeBench = Callable[..., Awaitable[Bench]]


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], Any]]:
    """Against hostile processes the loop of a node, which reads what has come before it calls back for tasks
    that are done; asyncio's does it the other way round."""
    hostile = item.path.name == "test_hostile.py"
    return {"uvloop": uvloop.new_event_loop} if hostile else {"asyncio": asyncio.new_event_loop}


@pytest_asyncio.fixture
async def make_bench() -> AsyncIterator[MakeBench]:
    """Starts hosts; stops them at the end and checks that no process is left."""
    hosts: list[tuple[SkillHost, set[int]]] = []

    async def make(*skill_dirs: Path, **changes: Any) -> Bench:
        host = SkillHost.spawn(options(*skill_dirs, **changes))
        hosts.append((host, {host.zygote_pid}))
        await host.start()
        return Bench(host)

    yield make
    for host, seen in hosts:
        seen |= {host.zygote_pid} | children_of(host.zygote_pid)
        await host.stop()
        assert not [pid for pid in seen if alive(pid)], "a skill process outlived its host"


@pytest_asyncio.fixture
async def bench(make_bench: MakeBench) -> Bench:
    """A host with the samples and the shipped skills."""
    return await make_bench()


@pytest.fixture
def skill_folder(tmp_path: Path) -> Callable[..., Path]:
    """Writes a skill folder; returns the root."""

    def write(name: str, manifest: str, handler: str | None = None, file: str = "handler.py") -> Path:
        folder = tmp_path / name
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / "SKILL.md").write_text(manifest)
        if handler is not None:
            (folder / file).write_text(handler)
        return tmp_path

    return write
