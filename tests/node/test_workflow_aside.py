"""Large workflows are read, checked and drawn in a thread, small ones at once."""

from __future__ import annotations

import threading

import pytest

from coterie.node.workflows import load
from coterie.node.workflows.aside import HERE_MAX, aside, size_of


@pytest.mark.parametrize(("size", "here"), [(HERE_MAX, True), (HERE_MAX + 1, False)])
async def test_size_decides_where_it_is_done(size: int, here: bool) -> None:
    found = await aside(size, threading.get_ident)
    assert (found == threading.get_ident()) is here


async def test_a_fault_comes_back() -> None:
    with pytest.raises(ZeroDivisionError):
        await aside(HERE_MAX + 1, lambda: 1 // 0)


def test_a_workflow_of_a_thousand_nodes_is_large_wherever_they_stand() -> None:
    nodes = "".join(f"      n{number}: {{skill: echo}}\n" for number in range(1_000))
    assert size_of(load(f"nodes:\n  all:\n    body:\n     nodes:\n{nodes}")) > HERE_MAX
    assert size_of(load("nodes: {a: {skill: echo}}")) < HERE_MAX
