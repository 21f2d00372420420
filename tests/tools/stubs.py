"""Make the gRPC code from the .proto files: `python -m tests.tools.stubs`, or with `--check` only compare."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROTO = ROOT / "proto"
PACKAGE = Path("coterie/v1")
GENERATED = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py", "*_pb2_grpc.pyi")


def generate(target: Path) -> None:
    """Write the code for every .proto file below `target`."""
    sources = [str(file.relative_to(PROTO)) for file in sorted((PROTO / PACKAGE).glob("*.proto"))]
    outputs = [f"--{kind}_out={target}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc")]
    plugins = str(Path(sys.executable).parent)  # protoc looks for protoc-gen-mypy on PATH
    env = {**os.environ, "PATH": os.pathsep.join([plugins, os.environ.get("PATH", "")])}
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTO}", *outputs, *sources]
    done = subprocess.run(command, cwd=PROTO, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)


def differences() -> list[str]:
    """Files that are stale, missing or left over, with the reason."""
    with tempfile.TemporaryDirectory() as scratch:
        generate(Path(scratch))
        made, kept = _contents(Path(scratch) / PACKAGE), _contents(PROTO / PACKAGE)
    return [
        f"{PACKAGE / name}: {_reason(name in made, name in kept)}"
        for name in sorted(made.keys() | kept.keys())
        if made.get(name) != kept.get(name)
    ]


def _reason(is_made: bool, is_kept: bool) -> str:
    if not is_kept:
        return "missing"
    return "stale" if is_made else "no .proto for it"


def _contents(directory: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for pattern in GENERATED for file in directory.glob(pattern)}


def main(arguments: list[str]) -> int:
    if arguments == ["--check"]:
        found = differences()
        print(
            "\n".join([*found, "run `make proto` and commit"] if found else ["the generated code is fresh"])
        )
        return 1 if found else 0
    if arguments:
        print("usage: python -m tests.tools.stubs [--check]", file=sys.stderr)
        return 2
    generate(PROTO)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
