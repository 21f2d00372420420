"""Lines of coterie.core and coterie.raft that their own tests run: `python -m tests.tools.coverage`.

Only the tests of these two rooms and of the simulator count: what a node does by the way proves nothing.
Ends with 1 when a room is below its floor."""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
TESTS = ("tests/core", "tests/raft", "tests/sim/test_raft_sim.py")
FLOORS = {"consensus/coterie/core": 100.0, "consensus/coterie/raft": 95.0}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.tools.coverage", description=__doc__)
    parser.add_argument("--missing", action="store_true", help="print the lines that no test runs")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data, report = Path(folder, "data"), Path(folder, "report.json")
        code = _python(
            "coverage",
            "run",
            f"--data-file={data}",
            f"--source={','.join(FLOORS)}",
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "--hypothesis-seed=0",  # the same lines each time
            "-m",
            "not chaos",
            *TESTS,
        )
        if code:
            return code
        _python("coverage", "json", f"--data-file={data}", "-q", "-o", str(report))
        files: dict[str, Any] = json.loads(report.read_text())["files"]
    print(_page(files, missing=options.missing).getvalue(), end="")
    return 1 if any(percent(files, room) < floor for room, floor in FLOORS.items()) else 0


def _python(*arguments: str) -> int:
    return subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT, check=False).returncode


def percent(files: dict[str, Any], room: str) -> float:
    """Of the statements of a room."""
    sums = [data["summary"] for name, data in files.items() if name.startswith(room)]
    return float(100 * sum(s["covered_lines"] for s in sums) / max(1, sum(s["num_statements"] for s in sums)))


def _page(files: dict[str, Any], *, missing: bool) -> io.StringIO:
    page = io.StringIO()
    for name, data in sorted(files.items()):
        summary = data["summary"]
        if summary["missing_lines"]:
            lines = f"  {data['missing_lines']}" if missing else ""
            print(f"{summary['percent_covered']:6.1f} %  {name}{lines}", file=page)
    for room, floor in FLOORS.items():
        print(f"coverage {room}: {percent(files, room):.2f} %, the floor is {floor:.0f} %", file=page)
    return page


if __name__ == "__main__":
    sys.exit(main())
