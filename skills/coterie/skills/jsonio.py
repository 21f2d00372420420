"""Strict JSON: what a skill takes and gives, with limits and errors that name the remedy."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, NoReturn

from coterie.skills.errors import NotJson, TooLarge


def encode(value: object, what: str, bytes_max: int) -> bytes:
    """`value` as compact UTF-8 JSON. Pydantic models and dataclasses are dumped to objects.

    Raises NotJson or TooLarge; `what` names the value in their messages.
    """
    try:
        text = _writer.encode(value).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise NotJson(
            f"{what} cannot be written as JSON ({error}); use only dict with str keys, list, str, finite "
            "numbers, bool, None, pydantic models and dataclasses"
        ) from error
    if len(text) > bytes_max:
        raise TooLarge(
            f"{what} takes {len(text)} bytes as JSON, the limit is {bytes_max}; "
            "store large data elsewhere and return where it is"
        )
    return text


def decode(data: bytes) -> Any:
    """The value of a JSON text; empty bytes are None. Raises ValueError with one clear line."""
    if not data:
        return None
    try:
        return _reader.decode(data.decode(json.detect_encoding(data), "surrogatepass"))  # as json.loads does
    except RecursionError:
        raise ValueError("JSON is nested too deeply") from None


def clip(text: str, chars_max: int) -> str:
    """`text` without lone surrogates, cut in the middle to at most `chars_max` characters plus a note."""
    if len(text) > chars_max:
        half = chars_max // 2
        text = f"{text[:half]} … [{len(text) - 2 * half} characters cut] … {text[-half:]}"
    return text.encode("utf-8", "replace").decode()


def _plain(value: object) -> object:
    dump = getattr(value, "model_dump", None)
    if callable(dump):
        return dump(mode="json")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    raise TypeError(f"a {type(value).__name__} is not a JSON value")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


# Made once: json.dumps and json.loads make one for each call that is not of the plainest kind.
_writer = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain)
_reader = json.JSONDecoder(parse_constant=_refuse_constant)
