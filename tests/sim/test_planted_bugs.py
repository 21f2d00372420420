"""The table of planted bugs is complete, and the hunt for them can fail. The hunt itself: make sim-bugs."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.sim.cluster.planted import PLANTED as OF_TASKS
from tests.sim.raft import bugs
from tests.sim.raft.plant import Plant
from tests.sim.raft.planted import FAULTS, PLANTED

ROOT = Path(__file__).resolve().parents[2]
RAFT_TESTS = ROOT / "tests" / "raft"
PAGE = ROOT / "docs" / "consensus.md"
# By one of the first random runs; the rarer ones are left to make sim-bugs.
FOUND_SOON = (
    "hasty-retry",
    "move-forgotten",
    "read-answered-twice",
    "reads-never-answered",
    "reads-refused",
    "refused-but-appended",
    "transfer-lie",
)


def test_every_fault_of_the_library_is_planted() -> None:
    assert [int(fault.split()[0]) for fault in FAULTS] == list(range(1, 13))
    assert all(FAULTS.values())


def test_every_planted_bug_stands_for_one_fault() -> None:
    switches = [plant for plants in FAULTS.values() for plant in plants]
    assert sorted(switches) == sorted(set(PLANTED) - {""})


def test_the_page_counts_them() -> None:
    directed = sum(bool(plant.found_by) for plant in PLANTED.values())
    total, of_tasks = len(set(PLANTED) - {""}), len(set(OF_TASKS) - {""})
    counted = (
        f"{total} of {total} bugs of the log found ({total - directed} by random seeds, {directed} by a "
        f"directed test), {of_tasks} of {of_tasks} of the task level"
    )
    assert counted in PAGE.read_text(encoding="utf-8"), (
        f"after `make sim-bugs`, the page should say: {counted}"
    )


@pytest.mark.parametrize("plant", sorted(name for name, plant in PLANTED.items() if plant.found_by))
def test_the_directed_test_exists(plant: str) -> None:
    file, _, name = PLANTED[plant].found_by.partition("::")
    tree = ast.parse((RAFT_TESTS / file).read_text())
    assert name in {
        node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


@pytest.mark.parametrize(
    "plant", [*sorted(name for name, plant in PLANTED.items() if plant.found_by), *FOUND_SOON]
)
def test_a_bug_is_found(plant: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert bugs.main([plant, "--jobs", "1"]) == 0
    assert "1 of 1 found" in capsys.readouterr().out


@pytest.mark.parametrize("test", ["", "test_elections.py::test_a_voter_counts_once"])
def test_a_bug_that_is_not_found_is_told(
    test: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bugs, "CAP", 1)
    monkeypatch.setitem(PLANTED, "none", Plant(found_by=test))
    assert bugs.main(["none", "--jobs", "1"]) == 1
    assert "MISSED" in capsys.readouterr().out


def test_a_bug_that_is_planted_wrongly_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    patch = ("coterie.raft.elections:SyncObj", "_on_vote_reply", None)
    found_by = "test_elections.py::test_a_voter_counts_once"
    monkeypatch.setitem(PLANTED, "broken", Plant(patches=(patch,), found_by=found_by))
    with pytest.raises(RuntimeError, match="planted wrongly"):
        bugs.hunt("broken")
