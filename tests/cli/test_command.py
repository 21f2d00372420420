"""The command where only a client is installed: it says what is missing, and does not break."""

from __future__ import annotations

import subprocess
import sys

import pytest

HIDE = """
import importlib.util as util, sys
found = util.find_spec
util.find_spec = lambda name, package=None: None if name in %r else found(name, package)
from coterie.node.cli.command import main
sys.exit(main())
"""


def run(*hidden: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", HIDE % (hidden,), "version"]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("hidden", [("click",), ("pydantic", "yaml")])
def test_without_the_libraries_of_a_node_the_command_says_what_to_install(hidden: tuple[str, ...]) -> None:
    done = run(*hidden)
    assert done.returncode == 2 and done.stdout == ""
    assert "pip install 'coterie[node]'" in done.stderr and all(name in done.stderr for name in hidden)
    assert "Traceback" not in done.stderr


def test_with_them_it_runs() -> None:
    done = run()
    assert done.returncode == 0 and "coterie" in done.stdout
