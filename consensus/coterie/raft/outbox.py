"""Messages on their way out, and the writes of the log that they wait for."""

from __future__ import annotations

from collections.abc import Container

from coterie.raft import messages as m

Queue = list[tuple[int, m.Message]]


class Outbox:
    """Writes are numbered. What a step says may leave when the writes are done that were begun, or due, at
    the end of that step; kinds of messages that promise nothing durable go ahead of it. Within the rest, and
    within those kinds, the order stays."""

    def __init__(self) -> None:
        self._fresh: dict[str, list[m.Message]] = {}
        self._held: dict[str, Queue] = {}

    def post(self, peer: str, message: m.Message) -> None:
        self._fresh.setdefault(peer, []).append(message)

    @property
    def is_empty(self) -> bool:
        return not (self._fresh or self._held)

    def drop(self, peer: str) -> None:
        """The link is gone, and what waited for it."""
        self._fresh.pop(peer, None)
        self._held.pop(peer, None)

    def take(self, done: int, needed: int, free: Container[type]) -> dict[str, list[m.Message]]:
        """What may leave. done: the last write that is on the disk; needed: the one that whatever was posted
        since the last call waits for; free: the kinds of messages that wait for none."""
        if not self._held and needed <= done:
            fresh, self._fresh = self._fresh, {}
            return fresh
        for peer, messages in self._fresh.items():
            self._held.setdefault(peer, []).extend((needed, message) for message in messages)
        self._fresh = {}
        leaving: dict[str, list[m.Message]] = {}
        for peer, queue in list(self._held.items()):
            stays: Queue = []
            for item in queue:
                needs, message = item
                if needs <= done or type(message) in free or _is_early(message):
                    leaving.setdefault(peer, []).append(message)
                else:
                    stays.append(item)
            if stays:
                self._held[peer] = stays
            else:
                del self._held[peer]
        return leaving


def _is_early(message: m.Message) -> bool:
    return isinstance(message, m.AppendReply) and message.early
