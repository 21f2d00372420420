"""docs/skills.md, followed line by line: its files are written, its commands run, its answers compared."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from coterie.node.localcluster import LocalCluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

PAGE = Path(__file__).parents[2] / "docs" / "skills.md"
BLOCK = re.compile(r"(?:^`(?P<path>[\w./-]+)`:\n\n)?^```(?P<kind>\w+)\n(?P<text>.*?)^```$", re.M | re.S)
COMMANDS = 10  # fewer found: the page was not understood


def commands(text: str) -> Iterator[tuple[str, str]]:
    """Each line after `$ `, and what it is to print."""
    for part in re.split(r"^\$ ", text, flags=re.M)[1:]:
        command, _, expected = part.partition("\n")
        yield command, expected.strip()


def fits(said: str, expected: str) -> bool:
    """`…` stands for anything."""
    pattern = ".*".join(re.escape(part) for part in expected.split("…"))
    return re.fullmatch(pattern, " ".join(said.split()), re.S) is not None


def do(command: str, here: Path, env: dict[str, str]) -> str:
    """What it prints, faults too."""
    line = command.replace("coterie ", f"{sys.executable} -m coterie.node.cli ", 1)
    done = subprocess.run(
        line, shell=True, cwd=here, env=env, capture_output=True, text=True, timeout=120, check=False
    )
    return done.stdout + done.stderr


async def test_the_page_is_right(shared: LocalCluster, tmp_path: Path) -> None:
    paths = shared.client_tls
    assert paths is not None
    env = os.environ | {
        "COTERIE_ENDPOINT": shared.endpoints,
        "COTERIE_TLS_CA": str(paths.ca),
        "COTERIE_TLS_CERT": str(paths.cert),
        "COTERIE_TLS_KEY": str(paths.key),
        "COLUMNS": "200",
    }
    ran = 0
    for block in BLOCK.finditer(PAGE.read_text(encoding="utf-8")):
        if block["path"]:
            path = tmp_path / block["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block["text"])
        elif block["kind"] == "sh":
            for command, expected in commands(block["text"]):
                said = await asyncio.to_thread(do, command, tmp_path, env)
                assert fits(said, expected), f"$ {command}\n{said}\nthe page says:\n{expected}"
                ran += 1
    assert ran >= COMMANDS
