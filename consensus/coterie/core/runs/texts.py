"""A workflow that is kept under a name, and the commands that keep and forget one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class WorkflowText:
    """A run that names a workflow gets a copy of it: later changes are none of the run's."""

    tenant: str
    name: str
    source: str
    revision: int = 1
    at_ms: int = 0


@dataclass(frozen=True, slots=True)
class ApplyWorkflow:
    """Keep a text under a name. `revision`: the one that is replaced; 0: whichever there is."""

    tenant: str
    name: str
    source: str
    revision: int = 0


@dataclass(frozen=True, slots=True)
class DeleteWorkflow:
    tenant: str
    name: str


def key_of(text: WorkflowText | ApplyWorkflow | DeleteWorkflow) -> str:
    return f"{text.tenant}/{text.name}"


TABLES: tuple[tuple[str, type, Callable[[Any], str]], ...] = (("workflows", WorkflowText, key_of),)
