"""How times, money and events are said."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from coterie.node.debugger.model import Happening, ModelCall

DETAIL_CHARS_MAX = 160


def flat(text: str, width: int = DETAIL_CHARS_MAX) -> str:
    """On one line, without what would steer a terminal."""
    one = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return one if len(one) <= width else one[: width - 1] + "…"


def clock(ms: int) -> str:
    """A moment in UTC, to the millisecond."""
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S.") + f"{ms % 1000:03d}Z"


def span(ms: int) -> str:
    """`340 ms`, `12.5 s`, `3 min 5 s`, `2 h 4 min`."""
    if ms < 1_000:
        return f"{ms} ms"
    if ms < 60_000:
        return f"{ms / 1000:.1f} s"
    seconds = ms // 1000
    if seconds < 3_600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3_600} h {seconds % 3_600 // 60} min"


def money(micro_usd: int) -> str:
    """Millionths of a dollar as dollars."""
    return f"{micro_usd / 1_000_000:.6f} USD"


def count(number: int, noun: str) -> str:
    """`1 step`, `2 steps`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def joined(names: Iterable[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    *first, last = list(names) or ["nothing"]
    return f"{', '.join(first)} and {last}" if first else last


def call_words(call: ModelCall) -> str:
    """A call of a model in a few words."""
    who = flat(f"{call.provider}/{call.model}".rstrip("/"))
    return f"{who} {call.outcome}: {call.tokens_in} in, {call.tokens_out} out, {money(call.micro_usd)}"


def said(event: Happening) -> str:
    """An event in a few words."""
    detail = flat(event.detail)
    plain = PHRASES.get(event.type)
    if plain is None:
        return f"{event.type}: {detail}" if detail else event.type
    return plain.format(node=event.node or "no node", attempt=event.attempt, detail=detail).rstrip(": ")


PHRASES = {
    "submitted": "submitted: {detail}",
    "assigned": "attempt {attempt} given to {node}",
    "started": "attempt {attempt} started on {node}",
    "step": "step {detail} recorded",
    "step_begun": "step {detail} begun: its intent is recorded",
    "step_retried": "step {detail} in doubt is tried again",
    "step_withdrawn": "step {detail} withdrawn",
    "step_resolved": "a step in doubt was resolved: {detail}",
    "emitted": "said {detail}",
    "checkpoint": "checkpoint saved",
    "released": "attempt {attempt} taken back from {node}: {detail}",
    "restored": "{detail}; further attempts have numbers above {attempt}",
    "retry": "attempt {attempt} failed, and is tried again: {detail}",
    "move_requested": "asked to move away from {node}: {detail}",
    "pause_requested": "asked to pause: {detail}",
    "paused": "paused: {detail}",
    "resumed": "resumed",
    "waiting": "waits, without a node: {detail}",
    "woken": "what it waited for has come",
    "wait_timed_out": "its wait ran out: {detail}",
    "child_begun": "got further than before: child {detail} was begun",
    "signal": "signal {detail} came",
    "deadline": "the deadline passed",
    "hurried": "queued at once instead of later",
    "node": "node {detail}",
    "grown": "nodes were added",
    "waits": "waits for its nodes",
    "progress": "got further: {detail}",
    "approval_asked": "people are asked: {detail}",
    "call_approved": "somebody approved {detail}",
    "call_rejected": "somebody rejected {detail}",
    "approval_expired": "nobody decided in time on {detail}",
    "cancel_requested": "asked to end: {detail}",
    "succeeded": "SUCCEEDED",
    "failed": "FAILED: {detail}",
    "cancelled": "CANCELLED: {detail}",
    "timed_out": "TIMED_OUT: {detail}",
    "dead_lettered": "DEAD_LETTERED: {detail}",
}
