"""What the repository itself must look like: licence, types for users, and nothing of any one machine."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = (
    "proto/coterie/v1",
    "consensus/coterie/core",
    "consensus/coterie/raft",
    "node/coterie/node",
    "node/coterie/client",
    "skills/coterie/skills",
)
# Spelled in pieces, so that this file does not contain what it looks for.
BANNED = {
    "a directory of one machine": re.compile(r"(?<![\w.$}])/(?:work|root|home/\w+|Users/\w+)" + "/"),
    "the host of a package registry": re.compile(
        r"pypi\." r"org|python" r"hosted\.org|registry\.npm" r"js|proxy\.golang"
    ),
    "an issue by number": re.compile(r"\b[Ii]ss" r"ue #?\d"),
    "an unresolved merge": re.compile(r"^(?:<{7}|>{7}) ", re.MULTILINE),
}
LOCK_FILES = ("uv.lock", "poetry.lock", "Pipfile.lock", "package-lock.json")  # they carry registry addresses
TEXT_BYTES_MAX = 500_000


def tracked_files() -> list[Path]:
    """The files git knows; in an unpacked archive, all files outside made directories."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return [path for name in done.stdout.split("\0") if name and (path := ROOT / name).is_file()]
    made = {".venv", "build", "dist", "__pycache__"}
    return [
        path for path in ROOT.rglob("*") if path.is_file() and not made & set(path.relative_to(ROOT).parts)
    ]


def faults(text: str) -> list[str]:
    return [f"{what}: {match[0]!r}" for what, pattern in BANNED.items() for match in pattern.finditer(text)]


def test_no_file_speaks_of_one_machine_or_workplace() -> None:
    found = {}
    for path in tracked_files():
        data = path.read_bytes()
        if b"\0" not in data and (wrong := faults(data.decode("utf-8"))):
            found[str(path.relative_to(ROOT))] = wrong
    assert found == {}


@pytest.mark.parametrize(
    "text",
    [
        "see /wo" + "rk/main",
        '"/ro' + 'ot/x"',
        "https://py" + "pi.org/simple",
        "as iss" + "ue 12 says",
        "<<<<<<" + "< HEAD",
    ],
)
def test_a_planted_word_is_found(text: str) -> None:
    assert faults(text)


@pytest.mark.parametrize(
    "text", ["./work/", "the network/ root", "issued 2 certificates", "$HOME/work/x", "a/home"]
)
def test_an_innocent_word_is_not(text: str) -> None:
    assert faults(text) == []


def test_no_tracked_file_is_huge() -> None:
    sizes = {str(path.relative_to(ROOT)): path.stat().st_size for path in tracked_files()}
    assert {name: size for name, size in sizes.items() if size > TEXT_BYTES_MAX} == {}


def test_the_licence_is_apache() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text and "Version 2.0, January 2004" in text
    assert 'license = "Apache-2.0"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize("package", PACKAGES)
def test_users_get_our_types(package: str) -> None:
    assert (ROOT / package / "py.typed").is_file()


def test_every_rpc_says_which_role_it_needs() -> None:
    """A new rpc is refused to everybody until it stands in the table."""
    from coterie.node.security.table import RULES

    listed = {tuple(name.rsplit(".", 1)[-1].split("/")) for name in RULES if name.startswith("/coterie.")}
    declared = set()
    for path in (ROOT / "proto/coterie/v1").glob("*.proto"):
        for service, body in re.findall(r"^service (\w+) \{(.*?)^\}", path.read_text("utf-8"), re.M | re.S):
            declared |= {(service, name) for name in re.findall(r"^\s*rpc (\w+)", body, re.M)}
    assert declared == listed, "write it under its role in node/coterie/node/security/table.py"


def test_no_lock_file_is_kept() -> None:
    names = {path.name for path in tracked_files()}
    assert names.isdisjoint(LOCK_FILES)


def test_every_target_of_the_makefile_is_there() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", text, re.MULTILINE))
    assert targets >= {
        "help",
        "setup",
        "demo",
        "test",
        "check",
        "sim",
        "chaos",
        "bench",
        "proto",
        "fmt",
        "clean",
    }


def test_ci_runs_what_the_readme_says() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111, ".ci/run must be executable"
    text = script.read_text(encoding="utf-8")
    assert "set -euo pipefail" in text and "make check" in text and "make test" in text
