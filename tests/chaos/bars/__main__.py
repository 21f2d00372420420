"""python -m tests.chaos.bars [NUMBER ...] [--full] [--seed N] [--json FILE] [--must-run] [--keep DIR]

Without numbers: all. Exits with 1 when a bar failed, or was skipped although --must-run was given.

    python -m tests.chaos.bars 9 --planted lying-disks    a disk that lies: the bar must fail
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from tests.chaos.bars import BARS
from tests.chaos.bars.bar import Bar, Setting
from tests.chaos.report import Report
from tests.chaos.tools.needs import missing

ROOT = Path(__file__).resolve().parents[3]


def main() -> int:
    """Run the chosen bars one after the other."""
    options = _options()
    if options.inside:
        return _run_inside(BARS[options.bars[0]], options)
    reports = []
    for number in options.bars or sorted(BARS):
        reports.append(_run_apart(BARS[number], options))
        print(reports[-1]["line"], flush=True)
    _write(options.json, reports)
    bad = ("failed", "skipped") if options.must_run else ("failed",)
    return int(any(report["verdict"] in bad for report in reports))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos.bars", description="Run bars under real faults."
    )
    parser.add_argument("bars", nargs="*", type=int, choices=[*sorted(BARS), []], metavar="NUMBER")
    parser.add_argument("--full", action="store_true", help="the size that proves something")
    parser.add_argument("--seed", type=int, default=int(os.environ.get("COTERIE_CHAOS_SEED", "1")))
    parser.add_argument("--json", type=Path, help="write what was found to this file")
    parser.add_argument("--must-run", action="store_true", help="a bar that is skipped counts as failed")
    parser.add_argument("--keep", type=Path, help="leave configuration, data and logs in this directory")
    parser.add_argument("--planted", default="", help="plant a fault the bar must find")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def _run_apart(bar: Bar, options: argparse.Namespace) -> dict[str, Any]:
    """The bar in namespaces of its own; its report comes back in a file."""
    report = Report(bar.number, bar.title, skipped=missing(*bar.needs))
    if report.skipped:
        return report.as_json()
    base = Path(tempfile.mkdtemp(prefix=f"coterie-bar-{bar.number}-"))
    answer = base / "report.json"
    began = time.monotonic()
    try:
        problem = _spawn(_command(bar, options, answer), bar.limit_s)
        found: dict[str, Any] = json.loads(answer.read_text()) if answer.exists() else {}
        if not found:
            report.violations.append(problem or "it ended without a report")
            found = report.as_json()
        found["figures"]["took_s"] = round(time.monotonic() - began, 1)
        return found
    finally:
        if options.keep is not None:
            shutil.copytree(base, options.keep / f"bar-{bar.number}", dirs_exist_ok=True, symlinks=True)
        shutil.rmtree(base, ignore_errors=True)


def _command(bar: Bar, options: argparse.Namespace, answer: Path) -> list[str]:
    spaces = ["--net"] if bar.own_network else []
    inside = [sys.executable, "-m", "tests.chaos.bars", str(bar.number), "--inside", str(answer)]
    inside += ["--seed", str(options.seed), "--planted", options.planted]
    if options.full:
        inside.append("--full")
    if platform.system() == "Linux" and not missing(*bar.needs):
        return ["unshare", "--mount", *spaces, "--propagation", "private", *inside]
    return inside


def _spawn(command: list[str], limit_s: float) -> str:
    """Run to the end, or to the limit. Returns what went wrong with the running itself."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what follows is undone then, too
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
    try:
        code = process.wait(limit_s)
    except BaseException as error:
        # The nodes it started die with it: a process of their own sees to that.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if isinstance(error, subprocess.TimeoutExpired):
            return f"it was not done after {limit_s:g} s"
        raise
    return f"it ended with code {code}" if code else ""


def _run_inside(bar: Bar, options: argparse.Namespace) -> int:
    report = Report(bar.number, bar.title)
    base = options.inside.parent / "run"
    base.mkdir()
    setting = Setting(options.full, options.seed, base, options.planted)
    report.figures |= {"seed": options.seed, "full": options.full}
    try:
        asyncio.run(bar.run(setting, report))
    except Exception:
        traceback.print_exc()
        report.violations.append(f"the run broke: {traceback.format_exc().strip().splitlines()[-1]}")
    options.inside.write_text(json.dumps(report.as_json(), default=str))
    return 0


def _write(path: Path | None, reports: list[dict[str, Any]]) -> None:
    if path is not None:
        machine = {"system": platform.platform(), "cores": os.cpu_count(), "load": os.getloadavg()}
        path.write_text(json.dumps({"machine": machine, "bars": reports}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
