"""What a process gives itself before it starts as a node."""

from __future__ import annotations

import subprocess
import sys

import pytest

_RAISED = """
import resource, sys
from coterie.node.start import OPEN_FILES_MAX, allow_many_open_files
soft, hard = (int(word) for word in sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
allow_many_open_files()
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(("soft", "hard"), [(256, 1_024), (1_024, 1_024)])
def test_a_node_may_open_as_many_files_as_it_is_allowed_to(soft: int, hard: int) -> None:
    command = [sys.executable, "-c", _RAISED, str(soft), str(hard)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.split() == [str(hard), str(hard)], done.stderr
