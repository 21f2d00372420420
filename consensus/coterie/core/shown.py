"""Texts of users inside of messages that are replicated: the same ones with every version of Python."""

from __future__ import annotations

import re
from typing import Any

# Controls, spaces that look like others or like nothing, marks that turn the direction of a line, halves of
# surrogate pairs, and what is for private use. What `repr` takes for printable grows with every Unicode.
_HIDDEN = re.compile(
    "[\\\\\x00-\x1f\x7f-\xa0\xad\u061c\u1680\u180e\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000"
    "\ud800-\uf8ff\ufeff\ufff0-\uffff\U000e0000-\U0010ffff]"
)


def shown(value: Any) -> str:
    """A value of JSON in quotes, as `repr` would give it if it did not look into tables of Unicode."""
    if not isinstance(value, str):
        return ascii(value)
    quote = '"' if "'" in value and '"' not in value else "'"
    text = _HIDDEN.sub(lambda match: ascii(match[0])[1:-1], value)
    return quote + (text if quote == '"' else text.replace("'", r"\'")) + quote
