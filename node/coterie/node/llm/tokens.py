"""The words of running model calls, as they come."""

from __future__ import annotations

from coterie.node.llm.completion import OnText


class TokenHub:
    """Keeps the text of running calls for those who watch their tasks."""

    def writer(self, task_id: str, step: str, attempt: int, call: int) -> OnText:
        """Where the text of a call goes."""
        return lambda text: None
