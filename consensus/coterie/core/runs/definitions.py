"""Workflows that are kept under a name: the text as given, and a number that grows with every change."""

from __future__ import annotations

from coterie.core.command_outcome import Accepted, Outcome, Rejected
from coterie.core.runs.texts import ApplyWorkflow, DeleteWorkflow, WorkflowText, key_of
from coterie.core.state import ClusterState, Moment

WORKFLOWS_MAX = 1_000  # of the cluster
WORKFLOW_CHARS_MAX = 256 * 1024
ALL_CHARS_MAX = 16 * 1024 * 1024


def apply_workflow(state: ClusterState, command: ApplyWorkflow, moment: Moment) -> Outcome:
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
    if state.workflows.pop(key_of(command), None) is None:
        return Rejected("WORKFLOW_NOT_FOUND", f"no workflow {command.name}")
    return Accepted()
