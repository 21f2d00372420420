"""How attempts ended lately, where anything failed: a sliding window, and what it says about breakers.

Every replica keeps one as it applies the log, so that a new coordinator knows what the old one knew. It is no
part of the state: a node that was restored from an image starts with an empty one, and only proposes later.

A dead process may be the fault of the skill, of the node, or of the skill on that node:
- `skill:TYPE@NODE` fails when such attempts die there;
- `skill:TYPE` when they die on two nodes or more;
- `node:NODE` when two types die there that die nowhere else, or when the node itself is lost, or starts none.
One task alone opens nothing: the poison may be its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from coterie.core.breakers import keys_of
from coterie.core.nouns import NodeId, Policy, Task, TaskId

WINDOW_MS = 60_000
KEYS_MAX = 4_096
KEPT_MAX = 1_000  # failures, and passes, of one key
LOSSES_KEPT_MAX = 10_000
NOT_STARTED = "nobody started it"  # why the coordinator takes back an assignment
SAME_LOSS_MS = 1_000  # a node that is lost loses all its tasks: that is one failure


@dataclass(frozen=True, slots=True)
class Failure:
    """One attempt that died, or one loss of a node (then without a task)."""

    at_ms: int
    task_id: str
    type: str
    node_id: NodeId


@dataclass(frozen=True, slots=True)
class Loss:
    """An attempt that was lost with its node: that process of it."""

    task_id: TaskId
    attempt: int
    node_id: NodeId
    incarnation: int


@dataclass(slots=True)
class Window:
    """What happened since the first failure that still counts."""

    failures: deque[Failure] = field(default_factory=lambda: deque(maxlen=KEPT_MAX))
    passes: deque[int] = field(default_factory=lambda: deque(maxlen=KEPT_MAX))

    def prune(self, now_ms: int) -> None:
        while self.failures and self.failures[0].at_ms <= now_ms - WINDOW_MS:
            self.failures.popleft()
        while self.passes and self.passes[0] <= now_ms - WINDOW_MS:
            self.passes.popleft()


class Outcomes:
    """Windows by key of breaker. A key under which nothing failed has none, and costs nothing."""

    def __init__(self) -> None:
        self.windows: dict[str, Window] = {}
        self.lost_tasks: deque[Loss] = deque(maxlen=LOSSES_KEPT_MAX)  # for whoever measures failovers

    def crashed(self, task: Task, at_ms: int) -> None:
        """The process of an attempt died on the node that the task names."""
        failure = Failure(at_ms, task.task_id, task.type, task.node_id)
        for key in keys_of(task.type, task.node_id):
            self._window(key).failures.append(failure)

    def lost(self, task: Task, reason: str, at_ms: int) -> None:
        """The node was lost with the task, or did not start it."""
        self.lost_tasks.append(Loss(task.task_id, task.attempt, task.node_id, task.incarnation))
        window = self._window(f"node:{task.node_id}")
        last = max((one.at_ms for one in window.failures if not one.task_id), default=-SAME_LOSS_MS)
        if reason == NOT_STARTED:
            window.failures.append(Failure(at_ms, "", task.type, task.node_id))
        elif at_ms - last >= SAME_LOSS_MS:
            window.failures.append(Failure(at_ms, "", "", task.node_id))

    def passed(self, task: Task, at_ms: int) -> None:
        """An attempt ended by itself."""
        for key in keys_of(task.type, task.node_id):
            window = self.windows.get(key)
            if window is not None:
                window.passes.append(at_ms)

    def forget(self, key: str) -> None:
        """The breaker has changed: what was before counts no more."""
        self.windows.pop(key, None)

    def tripped(self, policy: Policy, now_ms: int) -> Iterator[tuple[str, str]]:
        """Keys that should be open, and why. Nothing while breakers are off."""
        if not policy.breaker_failures:
            return
        for key, window in list(self.windows.items()):
            window.prune(now_ms)
            if not window.failures:
                del self.windows[key]
        deaths = self._deaths()
        for key, window in list(self.windows.items()):
            count = _counted(key, window, policy, deaths)
            if count >= policy.breaker_failures and count >= len(window.passes):
                yield key, _told(count, window)

    def _window(self, key: str) -> Window:
        if key not in self.windows and len(self.windows) >= KEYS_MAX:
            del self.windows[next(iter(self.windows))]
        return self.windows.setdefault(key, Window())

    def _deaths(self) -> dict[str, set[NodeId]]:
        """The nodes on which attempts of each type died lately. When the breaker of a skill opens its own
        window is forgotten: those of the nodes still tell that it died on several, and is to blame itself."""
        found: dict[str, set[NodeId]] = {}
        for key, window in self.windows.items():
            if key.startswith("node:") or "@" not in key:
                for one in window.failures:
                    if one.task_id:
                        found.setdefault(one.type, set()).add(one.node_id)
        return found


def _counted(key: str, window: Window, policy: Policy, deaths: dict[str, set[NodeId]]) -> int:
    """Failures that are the fault of what the key names; 0 while it may be something else's."""
    crashes = [one for one in window.failures if one.task_id]
    if key.startswith("node:"):
        own = len(window.failures) - len(crashes)
        here_only = [one for one in crashes if len(deaths[one.type]) < 2]
        return own + (len(here_only) if len({one.type for one in here_only}) > 1 else 0)
    if len({one.task_id for one in crashes}) < min(2, policy.breaker_failures):
        return 0
    if "@" not in key and len({one.node_id for one in crashes}) < 2:
        return 0
    return len(crashes)


def _told(count: int, window: Window) -> str:
    total = len(window.failures) + len(window.passes)
    kinds = sorted({one.type for one in window.failures if one.task_id})
    what = f"attempts of {', '.join(kinds[:3])} died" if kinds else "the node was lost or started nothing"
    return f"{count} of {total} failed within {WINDOW_MS // 1000} s: {what}"
