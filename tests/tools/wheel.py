"""Does the wheel hold what it should, and does its client work where only the base install is?

Builds the wheel, looks into it, installs it into an empty environment and imports the client; then adds
google-cloud-tasks, which brings a top-level package called `proto`, and imports both in one process."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

from tests.tools.stubs import ROOT

NEIGHBOUR = "google-cloud-tasks"
PACKAGES = ("v1", "core", "raft", "node", "client", "skills")
NODE_LIBRARIES = ("pydantic", "pysyncobj", "yaml", "click", "cryptography", "openai", "networkx")
OF_EXTRAS = ("polars", "matplotlib", "boto3", "kubernetes", "radon", "pyflakes", "lark_oapi", "mcp")
ALONE = f"""
import importlib.util, sys
import coterie.client
import coterie
assert coterie.__file__ is None, f"coterie is a namespace, not a package: {{coterie.__file__}}"
brought = [name for name in {(*NODE_LIBRARIES, *OF_EXTRAS)!r} if importlib.util.find_spec(name)]
assert not brought, f"the base install brings what only a node needs: {{brought}}"
loaded = [name for name in sys.modules if name.startswith(("coterie.node", "coterie.core", "coterie.raft"))]
assert not loaded, f"the client loads what only a node needs: {{loaded}}"
print("coterie.client works alone")
"""
TOGETHER = """
import coterie.client, coterie.v1.tasks_pb2_grpc
import google.cloud.tasks_v2, proto
print("coterie.client works beside", google.cloud.tasks_v2.__name__, "and", proto.__name__)
"""


def misplaced(names: list[str]) -> list[str]:
    """What is wrong with the list of files in the wheel."""
    problems = [
        f"{name}: outside coterie/" for name in names if name.split("/")[0].split("-")[0] != "coterie"
    ]
    problems += [
        f"{name}: does not belong here" for name in names if "__pycache__" in name or "tests/" in name
    ]
    needed = [f"coterie/{package}/py.typed" for package in PACKAGES]
    problems += [f"{name}: missing" for name in needed if name not in names]
    if not any(name.endswith(".dist-info/licenses/LICENSE") for name in names):
        problems.append("LICENSE: missing")
    if "coterie/__init__.py" in names:
        problems.append("coterie/__init__.py: makes a package of the namespace")
    return problems


def main() -> int:
    with tempfile.TemporaryDirectory() as scratch:
        base = Path(scratch)
        _run([sys.executable, "-m", "build", "--wheel", "--outdir", str(base), str(ROOT)], base)
        wheel = next(base.glob("*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            problems = misplaced(archive.namelist())
        if problems:
            print("\n".join(problems))
            return 1
        venv.create(base / "venv", with_pip=True)
        python = str(base / "venv" / "bin" / "python")
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        for package, trial in ((str(wheel), ALONE), (NEIGHBOUR, TOGETHER)):
            _run([*install, package], base)
            print(_run([python, "-I", "-c", trial], base).strip())
    return 0


def _run(command: list[str], directory: Path) -> str:
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:4])} ... failed:\n{done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
