"""What can go wrong on the way to a server."""

from __future__ import annotations


class McpFault(Exception):
    """A call that got no answer. `undone`: it certainly did nothing, as no server heard of it."""

    def __init__(self, message: str, code: str, *, undone: bool = False) -> None:
        super().__init__(message)
        self.code, self.undone = code, undone
