"""Workflows that are kept under a name: the text as given, and a number that grows with every change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coterie.core.commands import Outcome
    from coterie.core.state import ClusterState, Moment

WORKFLOWS_MAX = 1_000  # of the cluster
WORKFLOW_CHARS_MAX = 256 * 1024
ALL_CHARS_MAX = 16 * 1024 * 1024


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


def apply_workflow(state: ClusterState, command: ApplyWorkflow, moment: Moment) -> Outcome:
    from coterie.core.commands import Accepted, Rejected

    known = state.workflows.get(key_of(command))
    if known is not None and known.source == command.source:
        return Accepted(duplicate=True)
    revision = known.revision if known is not None else 0
    if command.revision and command.revision != revision:
        return Rejected("ETAG_MISMATCH", f"workflow {command.name} is at revision {revision}")
    others = [one for key, one in state.workflows.items() if key != key_of(command)]
    held = sum(len(one.source) for one in others) + len(command.source)
    if len(others) >= WORKFLOWS_MAX or len(command.source) > WORKFLOW_CHARS_MAX or held > ALL_CHARS_MAX:
        text = f"at most {WORKFLOWS_MAX} workflows of {WORKFLOW_CHARS_MAX} characters, {ALL_CHARS_MAX} in all"
        return Rejected("TOO_MANY_WORKFLOWS", text)
    state.workflows[key_of(command)] = WorkflowText(
        command.tenant, command.name, command.source, revision + 1, moment.at_ms
    )
    return Accepted()


def delete_workflow(state: ClusterState, command: DeleteWorkflow, moment: Moment) -> Outcome:
    from coterie.core.commands import Accepted, Rejected

    if state.workflows.pop(key_of(command), None) is None:
        return Rejected("WORKFLOW_NOT_FOUND", f"no workflow {command.name}")
    return Accepted()
