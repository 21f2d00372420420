"""Patterns of routing rules: RE2 finds them in time that grows with the length of the text alone, whatever
the pattern (Cox, "Regular Expression Matching Can Be Simple And Fast", 2007). What would need backtracking,
such as back references, and what would need much memory, is refused when the file is read."""

from __future__ import annotations

from functools import lru_cache
from typing import Final, Protocol

PATTERN_CHARS_MAX: Final = 1_000
_MEMORY_MAX: Final = 1 << 20  # bytes, of one compiled pattern


class Pattern(Protocol):
    """A compiled one."""

    def search(self, text: str) -> object | None:
        """Something where the text has it in it."""


@lru_cache(maxsize=1_024)
def compiled(pattern: str) -> Pattern:
    """Raises ValueError that says what is wrong."""
    import re2

    options = re2.Options()
    options.log_errors, options.never_capture, options.max_mem = False, True, _MEMORY_MAX
    try:
        found: Pattern = re2.compile(pattern, options)
    except re2.error as error:
        said = error.args[0] if error.args else error
        text = said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
        raise ValueError(
            f"{pattern[:80]!r} is not a pattern in RE2 syntax ({text}); "
            "look-around and back references are not part of it"
        ) from None
    return found
