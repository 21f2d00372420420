"""Request ids of changes already made: what may be proposed twice is done once."""

from __future__ import annotations

from coterie.core.command_outcome import Accepted, Outcome, Rejected
from coterie.core.coordination.bounds import ANSWERS_MAX, ANSWERS_MS
from coterie.core.coordination.nouns import Answer
from coterie.core.state import ClusterState, Moment


def answered(state: ClusterState, key: str, digest: bytes) -> Outcome | None:
    """What was answered to that request; None: it is new."""
    known = state.answers.get(key)
    if known is None:
        return None
    if known.digest != digest:
        return Rejected("REQUEST_ID_REUSED", "the request_id was used with another body")
    return Accepted(duplicate=True, number=known.number)


def remember(state: ClusterState, key: str, digest: bytes, number: int, moment: Moment) -> None:
    """For a quarter of an hour, or until there are many newer ones."""
    answers = state.answers
    answers[key] = Answer(key, number, digest, moment.at_ms)
    while answers:
        oldest = next(iter(answers.values()))
        if len(answers) <= ANSWERS_MAX and oldest.at_ms + ANSWERS_MS >= moment.at_ms:
            return
        del answers[oldest.key]


def name_fault(what: str, name: str, chars_max: int) -> Rejected | None:
    """Why this is no name; None: it is one."""
    if name and len(name) <= chars_max and "\0" not in name:
        return None
    return Rejected("BAD_NAME", f"{what} is empty, has more than {chars_max} characters or a zero byte")
