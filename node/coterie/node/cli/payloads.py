"""Payloads that a command is given: as JSON, in a file, or in standard input."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

from coterie.node.cli.failures import bad_input
from coterie.node.cli.text import one_line

PAYLOAD_BYTES_MAX: Final = 64 * 1024 * 1024


def read_payload(text: str | None, option: str = "--payload") -> Any:
    """The JSON value in the text, in the file after an `@`, or in standard input for `-`. `option`: how what
    was given is called."""
    if text is None:
        return None
    data = read_text(text, option) if text == "-" or text.startswith("@") else text
    try:
        return json.loads(data, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        remedy = 'write JSON such as \'{"text": "hello"}\' or \'"hello"\'; @FILE reads a file'
        raise bad_input(option, f"{one_line(text, 60)!r} is not JSON ({error}); {remedy}") from error


def read_text(source: str, option: str) -> str:
    """The text of the file after an `@`, or of standard input for `-`."""
    try:
        if source == "-":
            data = sys.stdin.buffer.read(PAYLOAD_BYTES_MAX + 1)
        else:
            with Path(source[1:]).open("rb") as file:
                data = file.read(PAYLOAD_BYTES_MAX + 1)
    except OSError as error:
        text = f"{source} cannot be read: {error.strerror}; name a readable file"
        raise bad_input(option, text) from error
    if len(data) > PAYLOAD_BYTES_MAX:
        text = f"{source} is larger than {PAYLOAD_BYTES_MAX >> 20} MiB; pass a reference to it"
        raise bad_input(option, text)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise bad_input(option, f"{source} is not UTF-8 text ({error.reason}); give JSON") from error


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not part of JSON")
