"""docs/consensus.md goes through the faults of the library one by one: what it names is there."""

from __future__ import annotations

import re
from pathlib import Path

from tests.sim.raft.planted import FAULTS

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/consensus.md").read_text()
ROWS = [
    tuple(cell.strip() for cell in line.strip("|").split("|"))
    for line in PAGE.splitlines()
    if re.match(r"\| \d+ \|", line) and line.count("|") == 6
]


def test_every_fault_stands_with_the_bugs_planted_for_it() -> None:
    shown = {f"{number} {fault}": tuple(planted.split(", ")) for number, fault, _, _, planted in ROWS}
    assert shown == FAULTS


def test_the_files_it_names_exist() -> None:
    for _, _, correction, tests, _ in ROWS:
        parts = [ROOT / "consensus/coterie/raft" / name for name in re.findall(r"`(\w+\.py)`", correction)]
        named = re.findall(r"`([\w/]+\.py)`", tests)
        held = [ROOT / name if "/" in name else ROOT / "tests/raft" / name for name in named]
        assert parts, correction
        assert held, tests
        assert [path for path in parts + held if not path.is_file()] == []
