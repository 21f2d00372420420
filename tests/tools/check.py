"""Everything that can be checked without starting a node: `python -m tests.tools.check [STEP ...]`.

All steps run even when one fails; the exit code is 1 when any did."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from tests.tools.stubs import ROOT

_BIN = Path(sys.executable).parent
_PYTHON = sys.executable
_LAW = ["tests/test_architecture.py", "tests/test_house.py", "tests/node/test_config_docs.py"]
_TYPED = ["consensus", "node", "skills", "tests", "bench"]

STEPS: Final[dict[str, list[str]]] = {
    "lint": [str(_BIN / "ruff"), "check", "."],
    "format": [str(_BIN / "ruff"), "format", "--check", "."],
    "types": [str(_BIN / "mypy"), "--strict", *_TYPED],
    "law": [_PYTHON, "-m", "pytest", "-q", *_LAW],
    "stubs": [_PYTHON, "-m", "tests.tools.stubs", "--check"],
    "wheel": [_PYTHON, "-m", "tests.tools.wheel"],
}


def main(names: list[str]) -> int:
    unknown = [name for name in names if name not in STEPS]
    if unknown:
        print(f"no such step: {', '.join(unknown)}; there are {', '.join(STEPS)}", file=sys.stderr)
        return 2
    failed = [name for name in names or STEPS if not _passes(name)]
    print(f"FAILED: {', '.join(failed)}" if failed else "all checks passed")
    return 1 if failed else 0


def _passes(name: str) -> bool:
    print(f"--- {name}: {' '.join(Path(part).name for part in STEPS[name][:3])} ...", flush=True)
    began = time.monotonic()
    code = subprocess.run(STEPS[name], cwd=ROOT, check=False).returncode
    print(f"--- {name}: {'failed' if code else 'passed'} in {time.monotonic() - began:.1f} s", flush=True)
    return code == 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
