"""Programs of the tests, run as somebody who is not root."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from coterie.skills.sandbox import identity

ROOT = Path(__file__).parents[2]
NOBODY = 65_534
TIMEOUT_S = 100


def as_nobody(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What this module of ours said and how it ended; skips the test where nobody can be had."""
    if os.geteuid() != 0:
        pytest.skip("only root can become nobody")
    places = (sys.executable, "/usr/bin/python3.11", "/usr/bin/python3")
    python = next((place for place in places if _for_everybody(place)), None)
    if python is None or not _for_everybody(str(ROOT)):
        pytest.skip("no Python that other users can run")
    paths = [str(ROOT), *(str(ROOT / room) for room in ("skills", "node", "consensus", "proto"))]
    env = {"PYTHONPATH": ":".join([*paths, *sys.path]), "PATH": "/usr/bin:/bin", "TMPDIR": "/tmp"}
    return subprocess.run(
        [python, "-m", module, *arguments],
        env=env, user=NOBODY, group=NOBODY, extra_groups=[], cwd="/", capture_output=True, text=True,
        timeout=TIMEOUT_S, check=False,
    )  # fmt: skip


def _for_everybody(path: str) -> bool:
    found = shutil.which(path) or path
    return os.path.exists(found) and identity.can_others_read(os.path.realpath(found))
