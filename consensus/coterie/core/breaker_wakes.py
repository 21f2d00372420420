"""Tasks that sleep until a breaker closes, such as that of a provider of models, go on when it does."""

from __future__ import annotations

from coterie.core import breaker_rules
from coterie.core.breaker_commands import EndProbe, ResetBreaker
from coterie.core.breakers import BreakerState
from coterie.core.commands import Outcome
from coterie.core.lifecycle import wake_all
from coterie.core.nouns import WaitReason
from coterie.core.state import ClusterState, Moment


def end_probe(state: ClusterState, command: EndProbe, moment: Moment) -> Outcome:
    was_open = _is_open(state, command.key)
    outcome = breaker_rules.end_probe(state, command, moment)
    if was_open and not _is_open(state, command.key):
        _wake(state, command.key, moment)
    return outcome


def reset(state: ClusterState, command: ResetBreaker, moment: Moment) -> Outcome:
    was_open = _is_open(state, command.key)
    outcome = breaker_rules.reset(state, command, moment)
    if was_open:
        _wake(state, command.key, moment)
    return outcome


def _is_open(state: ClusterState, key: str) -> bool:
    breaker = state.breakers.get(key)
    return breaker is not None and breaker.state is BreakerState.OPEN


def _wake(state: ClusterState, key: str, moment: Moment) -> None:
    wake_all(state, state.indexes.sleepers.of(WaitReason.CIRCUIT_OPEN, key), moment)
