"""What commands and the ends of attempts do to circuit breakers.

Invariants: a record of a breaker that is CLOSED has no probes; one that is half-open never has more permits
out, or used with success, than the policy's `breaker_probes`; there are at most BREAKERS_MAX records."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from coterie.core.bounds64 import later_ms
from coterie.core.breaker_commands import EndProbe, ResetBreaker, TakeProbe, TripBreaker
from coterie.core.breakers import (
    BREAKERS_MAX,
    MEMORY,
    REASON_CHARS_MAX,
    Breaker,
    BreakerState,
    Probe,
    is_key,
    is_proven,
    keys_of,
    live_probes,
    phase,
    probe_of,
    recovery_ms,
    why,
)
from coterie.core.commands import Accepted, Outcome, Rejected
from coterie.core.nouns import NodeId, Task, TaskState, evolve
from coterie.core.shown import shown
from coterie.core.state import ClusterState, Moment

LEASE_MS_MAX = 3_600_000
PROBE_MS_MIN = 1_000


def trip(state: ClusterState, command: TripBreaker, moment: Moment) -> Outcome:
    if not state.meta.policy.breaker_failures:
        return Rejected("BREAKERS_OFF", "circuitBreaker.enabled is false")
    if not is_key(command.key):
        return _bad_key(command.key)
    known = state.breakers.get(command.key)
    if known is not None and known.state is BreakerState.OPEN:
        return Accepted(duplicate=True)
    if command.number != (known.number if known is not None else 0):
        return Rejected("STALE_BREAKER", f"breaker {command.key} has been open and closed since")
    if known is None and not _make_room(state):
        return Rejected("TOO_MANY_BREAKERS", f"{BREAKERS_MAX} breakers are open")
    _open(state, command.key, known, command.reason, command.dice, moment)
    return Accepted()


def _bad_key(key: str) -> Rejected:
    return Rejected(
        "BAD_BREAKER", f"{shown(key)} is no key of a breaker: write KIND:NAME, such as provider:acme"
    )


def _make_room(state: ClusterState) -> bool:
    """The record closed the longest ago is forgotten."""
    if len(state.breakers) < BREAKERS_MAX:
        return True
    closed = [b for b in state.breakers.values() if b.state is BreakerState.CLOSED]
    if not closed:
        return False
    del state.breakers[min(closed, key=lambda b: (b.since_ms, b.key)).key]
    return True


def _open(
    state: ClusterState, key: str, known: Breaker | None, reason: str, dice: int, moment: Moment
) -> None:
    """For the first time in a row when the last time is long over."""
    policy, opened, number = state.meta.policy, 1, 1
    if known is not None:
        number = known.number + 1
        lately = moment.at_ms - known.since_ms < MEMORY * policy.breaker_recovery_ms
        half_open = known.state is BreakerState.OPEN
        opened = known.opened + 1 if half_open or lately else 1
    until_ms = later_ms(moment.at_ms, recovery_ms(policy, opened, dice))
    text = reason[:REASON_CHARS_MAX]
    state.breakers[key] = Breaker(key, BreakerState.OPEN, number, moment.at_ms, until_ms, opened, text, dice)
    state.meta = evolve(state.meta, breakers_opened=state.meta.breakers_opened + 1)
    state.outcomes.forget(key)


def _close(state: ClusterState, known: Breaker, moment: Moment) -> None:
    state.breakers[known.key] = replace(
        known,
        state=BreakerState.CLOSED,
        number=known.number + 1,
        since_ms=moment.at_ms,
        until_ms=0,
        probes=(),
        passed=0,
    )
    state.outcomes.forget(known.key)


def reset(state: ClusterState, command: ResetBreaker, moment: Moment) -> Outcome:
    known = state.breakers.get(command.key)
    if known is None:
        if is_key(command.key):
            return Rejected("BREAKER_NOT_FOUND", f"breaker {command.key} has not been open")
        return _bad_key(command.key)
    if known.state is BreakerState.CLOSED:
        return Accepted(duplicate=True)
    _close(state, replace(known, opened=0), moment)
    return Accepted()


# --- probes


def take_probe(state: ClusterState, command: TakeProbe, moment: Moment) -> Outcome:
    if not is_key(command.key) or not command.probe_id:
        return _bad_key(command.key)
    lease_ms = min(max(PROBE_MS_MIN, command.lease_ms), LEASE_MS_MAX)
    probe = Probe(command.probe_id, moment.at_ms + lease_ms)
    return _admit(state, (command.key,), probe, moment) or Accepted()


def admit_attempt(state: ClusterState, task: Task, node_id: NodeId, moment: Moment) -> Rejected | None:
    """The permits that the task's next attempt needs on that node: all of them, or none is taken. A skill
    that runs for longer than the recovery time keeps no other from trying."""
    until_ms = later_ms(moment.at_ms, max(state.meta.policy.breaker_recovery_ms, PROBE_MS_MIN))
    probe = Probe(probe_of(task.task_id, task.attempt + 1), until_ms)
    return _admit(state, keys_of(task.type, node_id), probe, moment)


def _admit(state: ClusterState, keys: Iterable[str], probe: Probe, moment: Moment) -> Rejected | None:
    half_open = []
    for key in keys:
        breaker = state.breakers.get(key)
        if breaker is None or breaker.state is BreakerState.CLOSED:
            continue
        if is_proven(breaker, state.meta.policy):
            _close(state, breaker, moment)
            continue
        if any(known.probe_id == probe.probe_id for known in live_probes(breaker, moment.at_ms)):
            continue
        reason = why(breaker, state.meta.policy, moment.at_ms)
        if reason:
            return Rejected("CIRCUIT_OPEN", reason, _retry_at_ms(breaker, moment.at_ms))
        half_open.append(breaker)
    for breaker in half_open:
        probes = (*live_probes(breaker, moment.at_ms), probe)
        state.breakers[breaker.key] = replace(breaker, probes=probes)
    return None


def _retry_at_ms(breaker: Breaker, now_ms: int) -> int:
    if phase(breaker, now_ms) is BreakerState.OPEN:
        return breaker.until_ms
    return min((probe.until_ms for probe in live_probes(breaker, now_ms)), default=0)


def end_probe(state: ClusterState, command: EndProbe, moment: Moment) -> Outcome:
    verdict = True if command.ok else (False if command.failed else None)
    if not _settle(state, command.key, command.probe_id, verdict, command.reason, moment):
        return Accepted(duplicate=True)  # of a breaker that has changed since, or said before
    return Accepted()


def _settle(
    state: ClusterState, key: str, probe_id: str, ok: bool | None, reason: str, moment: Moment
) -> bool:
    """Whether there was such a probe. What it found closes the breaker, or opens it again."""
    breaker = state.breakers.get(key)
    if breaker is None or all(probe.probe_id != probe_id for probe in breaker.probes):
        return False
    probes = tuple(probe for probe in breaker.probes if probe.probe_id != probe_id)
    if ok is False:
        _open(state, key, breaker, reason or breaker.reason, breaker.dice, moment)
        return True
    breaker = replace(breaker, probes=probes, passed=breaker.passed + (ok is True))
    state.breakers[key] = breaker
    if is_proven(breaker, state.meta.policy):
        _close(state, breaker, moment)
    return True


# --- what the ends of attempts say


def attempt_ended(state: ClusterState, before: Task, after: Task, detail: str, moment: Moment) -> None:
    """A node has let a task go. Only what is the fault of machines counts as failed: a dead process, a lost
    node, a start that never came. An error of the skill's own says that all of these work."""
    # Whoever waits is further than it was: its crashes are forgotten, which is none.
    crashed = bool(after.crashes) and after.crashes is not before.crashes and after.losses == before.losses
    lost = after.losses != before.losses
    if crashed:
        state.outcomes.crashed(before, moment.at_ms)
    elif lost:
        state.outcomes.lost(before, detail, moment.at_ms)
    elif state.outcomes.windows:
        state.outcomes.passed(before, moment.at_ms)
    if state.breakers:
        ok = False if crashed or lost else _worked(before, after)
        probe_id = probe_of(before.task_id, before.attempt)
        for key in keys_of(before.type, before.node_id):
            _settle(state, key, probe_id, ok, f"its probe failed: {detail}" if detail else "", moment)


def _worked(before: Task, after: Task) -> bool | None:
    """None: nothing is known, as when somebody paused it."""
    if after.state in (TaskState.SUCCEEDED, TaskState.WAITING):
        return True
    own_error = after.failures != before.failures
    timed_out = own_error and after.error is not None and after.error.code == "ATTEMPT_TIMEOUT"
    return True if own_error and not timed_out else None


def forget_node(state: ClusterState, node_id: NodeId) -> None:
    """It is gone for good, and with it its breakers and what would open them again."""
    for key in [key for key in state.breakers if _names(key, node_id)]:
        del state.breakers[key]
    for key in [key for key in state.outcomes.windows if _names(key, node_id)]:
        state.outcomes.forget(key)


def _names(key: str, node_id: NodeId) -> bool:
    return key == f"node:{node_id}" or key.endswith(f"@{node_id}")
