"""Errors in the room that gRPC has for them. A call ends with 8 KiB of trailers at most; of a larger error
the caller would see no word, only that something was RESOURCE_EXHAUSTED."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from coterie.node.errors import ApiError, Violation, to_status

TRAILERS_BYTES_MAX: Final = 7_000  # the rest is for what gRPC itself says
MESSAGE_BYTES_MAX, FIELD_BYTES_MAX, TEXT_BYTES_MAX = 1_500, 200, 600
FACTS_MAX, FACT_BYTES_MAX = 8, 128
VIOLATIONS_MAX: Final = 256  # more cannot fit, however short they are
_PLAIN: Final = bytes(byte for byte in range(0x20, 0x7F) if byte != ord("%"))


def concise(error: ApiError) -> ApiError:
    """The error if it fits, else what fits of it: its code and reason, the beginning of its message, and as
    many violations as there is room for, with how many more there are."""
    error = _sendable(error)
    if trailer_bytes(error) <= TRAILERS_BYTES_MAX:
        return error
    told = replace(
        error, message=_cut(error.message, MESSAGE_BYTES_MAX), violations=(), metadata=_facts(error.metadata)
    )
    return replace(told, violations=_fitting(error.violations, TRAILERS_BYTES_MAX - trailer_bytes(told)))


def _sendable(error: ApiError) -> ApiError:
    """Half of a character, which JSON can spell, is told as a question mark: no message can hold it."""
    texts = [error.message, *error.metadata, *error.metadata.values()]
    texts += [text for one in error.violations for text in (one.field, one.description)]
    if all(map(_is_whole, texts)):
        return error
    return replace(
        error,
        message=_whole(error.message),
        violations=[Violation(_whole(v.field), _whole(v.description), v.limit) for v in error.violations],
        metadata={_whole(key): _whole(value) for key, value in error.metadata.items()},
    )


def _is_whole(text: str) -> bool:
    return text.isascii() or _whole(text) == text


def _whole(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def trailer_bytes(error: ApiError) -> int:
    """What the error takes of the trailers, as far as it is of interest: more than the limit is too much."""
    if len(error.message) > TRAILERS_BYTES_MAX or len(error.violations) > VIOLATIONS_MAX:
        return TRAILERS_BYTES_MAX + 1
    return _encoded(error.message) + int(to_status(error).ByteSize())


def _fitting(violations: Sequence[Violation], room: int) -> list[Violation]:
    kept: list[Violation] = []
    room -= 200  # for how many more there are, and the frame of all
    for one in violations[:VIOLATIONS_MAX]:
        short = Violation(_cut(one.field, FIELD_BYTES_MAX), _cut(one.description, TEXT_BYTES_MAX))
        room -= _encoded(short.field) + _encoded(short.description) + 16
        if room < 0:
            break
        kept.append(short)
    if left := len(violations) - len(kept):
        kept.append(Violation("", f"and {left} more"))
    return kept


def _facts(metadata: Mapping[str, str]) -> dict[str, str]:
    """Those that a program can still go by: cut, they would say something else."""
    whole = {key: value for key, value in metadata.items() if max(len(key), _length(value)) <= FACT_BYTES_MAX}
    return dict(list(whole.items())[:FACTS_MAX])


def _length(text: str) -> int:
    return len(text) if len(text) > FACT_BYTES_MAX else len(text.encode("utf-8", "replace"))


def _cut(text: str, bytes_max: int) -> str:
    kept = text[:bytes_max]
    while _encoded(kept) > bytes_max:
        kept = kept[: len(kept) * 3 // 4]
    return text if len(kept) == len(text) else f"{kept}… ({len(text)} characters)"


def _encoded(text: str) -> int:
    """Bytes of a text in a trailer: what is not plain ASCII takes three for each of its own."""
    raw = text.encode("utf-8", "replace")
    return len(raw) + 2 * len(raw.translate(None, _PLAIN))
