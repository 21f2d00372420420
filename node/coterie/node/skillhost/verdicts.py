"""The outcomes that the host itself gives; all others come from the child."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from coterie.node.skillhost.nouns import SkillOutcome
from coterie.node.skillhost.trees import ENDLESS

MESSAGE_CHARS_MAX = 2_000
CANCELLED = SkillOutcome("cancelled", code="CANCELLED", message="the task was cancelled", retryable=False)
LEASE_LOST = SkillOutcome("lease_lost", code="LEASE_LOST", message="the node's lease ran out")
SUSPENDED = SkillOutcome("suspended", code="SUSPENDED", message="the task waits")
HOST_LOST = SkillOutcome("crashed", code="HOST_LOST", message="the process that holds the skills died")
HOST_STOPPED = SkillOutcome("crashed", code="HOST_STOPPED", message="the node is stopping")


def crashed(how: str) -> SkillOutcome:
    """The process of the skill ended, or had to be ended, without an outcome."""
    return SkillOutcome("crashed", code="SKILL_CRASHED", message=f"the skill's process {how}")


def start_failed(why: str) -> SkillOutcome:
    """No process could be made for the run."""
    return SkillOutcome("crashed", code="SKILL_START_FAILED", message=f"no process for the skill: {why}")


def protocol_error(error: Exception) -> SkillOutcome:
    """The child sent what no child sends: the skill wrote to its socket, most likely."""
    message = f"the skill's process broke the protocol: {error}"[:MESSAGE_CHARS_MAX]
    return SkillOutcome("crashed", code="PROTOCOL_ERROR", message=message)


def misfit(code: str, what: str, wrong: Sequence[tuple[str, str]]) -> SkillOutcome:
    """The payload is not what the skill takes, or the result not what it promises: another attempt would end
    no better."""
    told = "; ".join(f"{what}{at}: {text}" for at, text in wrong)
    return SkillOutcome("failed", code=code, message=told[:MESSAGE_CHARS_MAX], retryable=False)


def timed_out(timeout_ms: int) -> SkillOutcome:
    """The attempt was killed at its timeout."""
    message = f"the attempt took longer than {timeout_ms} ms"
    return SkillOutcome("timed_out", code="TIMED_OUT", message=message)


def unknown_skill(name: str) -> SkillOutcome:
    """Another node may have the skill, so it may be retried."""
    return SkillOutcome("failed", code="UNKNOWN_SKILL", message=f"this node has no skill {name!r}")


def not_confinable(name: str, missing: Mapping[str, str]) -> SkillOutcome:
    """Another node may have what a sandbox needs, so it may be retried."""
    told = "; ".join(f"{layer}: {why}" for layer, why in missing.items())
    message = (
        f"{name!r} is not trusted, and this node cannot confine it ({told}); "
        "run it on another node, or name it in skills.trust"
    )
    return SkillOutcome("failed", code="SANDBOX_MISSING", message=message)


def too_much_disk(used: int, bytes_max: int) -> SkillOutcome:
    """The run was ended for what it kept in its working folder."""
    kept = f"{used} bytes" if used < ENDLESS else "more, or more deeply nested, than can be measured"
    message = f"the skill kept {kept} in its working folder, the limit is {bytes_max} bytes"
    return SkillOutcome("failed", code="TOO_MUCH_DISK", message=message, retryable=False)


def too_large(size: int, bytes_max: int) -> SkillOutcome:
    """What the run would have to be given does not fit into a frame."""
    message = f"payload, checkpoint and steps take {size} bytes, the limit is {bytes_max}"
    return SkillOutcome("failed", code="TOO_LARGE", message=message, retryable=False)


def with_traceback(outcome: SkillOutcome, tail: str) -> SkillOutcome:
    """A crash comes with what the process printed last: Python's fault handler writes a traceback there."""
    return replace(outcome, traceback=tail) if outcome.kind == "crashed" else outcome
