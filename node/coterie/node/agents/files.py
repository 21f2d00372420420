"""The files of an agent as one value with one hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

CONFIG, IDENTITY, SOUL, TOOLS = "config.yaml", "IDENTITY.md", "SOUL.md", "tools-config.json"
RULES, USER, MEMORY = "AGENTS.md", "USER.md", "MEMORY.md"
REGISTRY = "registry.json"  # the entry of agent-registry.yaml, when it was applied with one
FILE_CHARS_MAX = 20_000
ALL_CHARS_MAX = 60_000

Files = Mapping[str, str]


class AgentProblems(Exception):
    """The files are not those of an agent; `problems` has one line for each thing that is wrong."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def pack(files: Files) -> bytes:
    """One text for the same files, wherever it is made."""
    return json.dumps(dict(files), sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()


def unpack(bundle: bytes) -> dict[str, str]:
    """The files again. Raises ValueError where it is no bundle."""
    files = json.loads(bundle)
    if not isinstance(files, dict) or not all(isinstance(text, str) for text in files.values()):
        raise ValueError("a bundle of an agent is a JSON object of texts")
    return files


def revision_of(bundle: bytes) -> str:
    """SHA-256, lower-case hex."""
    return hashlib.sha256(bundle).hexdigest()


def size_problems(files: Files) -> list[str]:
    """Texts go into every prompt: what is too long is refused, and not cut without a word."""
    problems = [
        f"{name}: {len(text)} characters, at most {FILE_CHARS_MAX}; move what is seldom needed to a skill"
        for name, text in files.items()
        if len(text) > FILE_CHARS_MAX
    ]
    total = sum(map(len, files.values()))
    if total > ALL_CHARS_MAX:
        problems.append(f"all files: {total} characters, the limit is {ALL_CHARS_MAX}")
    return problems
