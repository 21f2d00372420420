"""The configuration that the cluster has agreed on: revisions, of which the newest holds.

Invariants: revision numbers grow by one; the newest revision and its policy are those in `Meta`; at most
REVISIONS_MAX are kept, the newest always. What a document means was worked out by the node that proposed
it, so that every replica has the same policy, whatever its version makes of a key."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from coterie.core.command_outcome import Accepted, Outcome, Rejected
from coterie.core.config_commands import ApplyConfig, ConfigRevision
from coterie.core.coordination.answers import answered, remember
from coterie.core.nouns import evolve
from coterie.core.state import ClusterState, Moment

REVISIONS_MAX: Final = 100
DOCUMENT_CHARS_MAX: Final = 64 * 1024
NOTE_CHARS_MAX: Final = 1_000


def newest(state: ClusterState) -> ConfigRevision | None:
    """The revision that holds; None before there is any."""
    return state.config.get(state.meta.config_revision)


def apply_config(state: ClusterState, command: ApplyConfig, moment: Moment) -> Outcome:
    key = f"\0config/{command.request_id}"
    known = answered(state, key, command.digest) if command.request_id else None
    if known is not None:
        return known
    last, number = newest(state), state.meta.config_revision
    if command.expected != number:
        return Rejected("REVISION_MISMATCH", f"the configuration is at revision {number}")
    if len(command.document) > DOCUMENT_CHARS_MAX or len(command.note) > NOTE_CHARS_MAX:
        text = f"a configuration has at most {DOCUMENT_CHARS_MAX} characters, a note {NOTE_CHARS_MAX}"
        return Rejected("CONFIG_TOO_LARGE", text)
    if last is not None and (last.document, last.policy) == (command.document, command.policy):
        return Accepted(duplicate=True, number=number)
    state.config[number + 1] = ConfigRevision(
        number + 1, command.document, command.policy, command.by, command.note, moment.at_ms
    )
    while len(state.config) > REVISIONS_MAX:
        del state.config[min(state.config)]
    state.meta = evolve(state.meta, policy=command.policy, config_revision=number + 1)
    state.indexes.queue.set_ageing(command.policy.ageing_ms)
    if command.request_id:
        remember(state, key, command.digest, number + 1, moment)
    return Accepted(number=number + 1)


RULES: dict[type, Callable[[ClusterState, Any, Moment], Outcome]] = {ApplyConfig: apply_config}
