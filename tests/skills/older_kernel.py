"""Hosts whose skill processes take this kernel for an older one."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from coterie.node.skillhost import zygote

# Python imports a module of this name at its start.
HOOK = "sitecustomize.py"
SOURCE = """
from coterie.skills.sandbox import landlock

_real = landlock.abi
landlock.abi = lambda: min(_real(), {version})
"""


@contextlib.contextmanager
def with_landlock(version: int | None) -> Iterator[None]:
    """Hosts spawned meanwhile find at most this version of Landlock's interface; None: what is there."""
    if version is None:
        yield
        return
    real = zygote._environment
    with tempfile.TemporaryDirectory(prefix="older-kernel-") as place:
        Path(place).chmod(0o755)
        Path(place, HOOK).write_text(SOURCE.format(version=version))

        def hooked(*given: object) -> dict[str, str]:
            env = real(*given)  # type: ignore[arg-type]
            return env | {"PYTHONPATH": os.pathsep.join([place, env["PYTHONPATH"]])}

        with mock.patch.object(zygote, "_environment", hooked):
            yield
