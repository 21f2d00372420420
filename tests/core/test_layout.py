"""What queued tasks take in memory, whatever the process did before."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys

from coterie.core import submit_rules
from coterie.core.layout import QUEUED

SCRIPT = """
import tracemalloc
from coterie.core import submit_rules
from coterie.core.nouns import Data, RetryPolicy, Task, TaskId, TaskState, make
needed = dict(tenant="t", type="x", payload=Data(b""), priority=2, retry=RetryPolicy(), created_at_ms=1)
for number in range(100):
    make(Task, task_id=TaskId("a"), order=1, **needed, state=TaskState.RUNNING, attempt=1, failures=3)
tracemalloc.start()
before = tracemalloc.get_traced_memory()[0]
tasks = [
    make(Task, task_id=TaskId("a"), order=1, **needed, start_at_ms=5, not_before_ms=5, sequence=1, version=1,
         bytes_held=7, key="k", deadline_at_ms=9, step_count=1)
    for number in range(1_000)
]
print((tracemalloc.get_traced_memory()[0] - before) // len(tasks))
"""


def test_a_queued_task_has_no_dict_of_its_own() -> None:
    ran = subprocess.run([sys.executable, "-c", SCRIPT], check=True, capture_output=True, text=True)
    assert int(ran.stdout) < 350, "bytes of a task without its values"


def test_the_places_are_those_of_what_a_new_task_holds() -> None:
    source = ast.parse(inspect.getsource(submit_rules._new_task))
    made = next(one for one in ast.walk(source) if isinstance(one, ast.Call) and len(one.keywords) > 9)
    assert {one.arg for one in made.keywords} == set(QUEUED)
    assert len(QUEUED) == len(set(QUEUED)) < 30, "CPython gives no more places"
