"""The scenes, on real processes: each ends with a proof that holds."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from rich.console import Console

from coterie.node.demo.proof import Check
from coterie.node.demo.scenes import SCENES, avalanche, load_scene
from coterie.node.demo.stage import Scene, Stage, run_scene

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


@pytest.mark.parametrize("name", sorted(SCENES))
def test_a_scene_keeps_its_promises(tmp_path: Path, name: str) -> None:
    command = [sys.executable, "-m", "coterie.node.demo", "--scene", name, "--plain", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "every promise was kept" in done.stdout
    assert "kept" in done.stdout.partition("Proof")[2]


@pytest.mark.parametrize("name", sorted(SCENES))
def test_every_scene_can_be_loaded(name: str) -> None:
    assert load_scene(name).title


def test_a_broken_promise_is_an_exit_code_and_keeps_the_logs(tmp_path: Path) -> None:
    async def play(stage: Stage) -> Sequence[Check]:
        stage.say("nothing happens")
        return [Check("things done", "0", False, "counted")]

    console = Console(record=True, width=120)
    scene = Scene(title="A scene that fails.", play=play, nodes=1)
    assert asyncio.run(run_scene(scene, console, tmp_path, plain=True)) == 1
    assert "BROKEN" in console.export_text()
    assert (tmp_path / "logs" / "node-1.log").exists()


def test_an_agent_that_is_down_for_a_moment_in_the_rush_has_not_failed() -> None:
    rush = avalanche.Rush(cast(Any, None))
    for at, down in ((0.0, True), (2.5, True), (3.0, False), (3.5, True), (6.0, True)):
        rush.look("node-2", down=down, at=at)
    assert not rush.unwell
    rush.look("node-2", down=True, at=6.5)
    rush.look(avalanche.FIRST, down=True, at=0.0)
    rush.look(avalanche.FIRST, down=True, at=10.0)
    assert rush.unwell == {"node-2"}, "and not the one that was killed"
