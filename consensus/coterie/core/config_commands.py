"""What a configuration that the cluster agrees on consists of, and the command that puts one in force."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from coterie.core.nouns import Policy


@dataclass(frozen=True, slots=True)
class ConfigRevision:
    """What was in force from then on. `document`: a JSON object of what was set, by dotted keys."""

    revision: int
    document: str
    policy: Policy
    by: str
    note: str = ""
    at_ms: int = 0


@dataclass(frozen=True, slots=True)
class ApplyConfig:
    """Put a configuration in force. `expected`: the revision it was made from, still the newest."""

    document: str
    policy: Policy
    expected: int
    by: str
    note: str = ""
    request_id: str = ""
    digest: bytes = b""


TABLES: tuple[tuple[str, type, Callable[[Any], str | int]], ...] = (
    ("config", ConfigRevision, lambda one: one.revision),
)
