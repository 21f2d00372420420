"""Look-ups derived from locks, keys and topics: rebuilt after a restore, never part of the state's
identity."""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator, Mapping

from coterie.core.coordination.bounds import KEY_OVERHEAD_BYTES, MESSAGE_OVERHEAD_BYTES
from coterie.core.coordination.nouns import KvEntry, Lock, Topic, TopicMessage
from coterie.core.nouns import TaskId

FAR_MS = 1 << 62
Alarm = tuple[str, str]  # what it is about: "lock", "key" or "topic", and which one
HIGHEST = "\U0010ffff"


def name_key(tenant: str, name: str) -> str:
    """Under which a record of a tenant stands in the state's tables."""
    return f"{tenant}\0{name}"


class Alarms:
    """When time alone changes something, at the latest one alarm for each thing."""

    __slots__ = ("_at_ms", "_heap", "next_ms")

    def __init__(self) -> None:
        self._at_ms: dict[Alarm, int] = {}
        self._heap: list[tuple[int, Alarm]] = []  # with entries that are not true any more
        self.next_ms = FAR_MS

    def set(self, kind: str, key: str, at_ms: int) -> None:
        """0 clears it."""
        alarm = (kind, key)
        if self._at_ms.get(alarm, 0) == at_ms:
            return
        if at_ms:
            self._at_ms[alarm] = at_ms
            heapq.heappush(self._heap, (at_ms, alarm))
        else:
            del self._at_ms[alarm]
        self._settle()

    def take_due(self, now_ms: int) -> Alarm | None:
        """The next one whose time has come; it is cleared."""
        if self.next_ms > now_ms:
            return None
        _, alarm = heapq.heappop(self._heap)
        del self._at_ms[alarm]
        self._settle()
        return alarm

    def _settle(self) -> None:
        heap = self._heap
        if len(heap) > 2 * len(self._at_ms) + 64:
            heap[:] = [(at_ms, alarm) for alarm, at_ms in self._at_ms.items()]
            heapq.heapify(heap)
        while heap and self._at_ms.get(heap[0][1]) != heap[0][0]:
            heapq.heappop(heap)
        self.next_ms = heap[0][0] if heap else FAR_MS

    def image(self) -> dict[Alarm, int]:
        return dict(self._at_ms)


class Backlog:
    """Positions of what is kept of one topic. Only the oldest leaves."""

    __slots__ = ("_first", "_positions", "size_bytes")

    def __init__(self) -> None:
        self._positions: list[int] = []
        self._first = 0
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._positions) - self._first

    def add(self, message: TopicMessage) -> None:
        self._positions.append(message.position)
        self.size_bytes += message_bytes(message)

    def oldest(self) -> int:
        """Its position. There must be one."""
        return self._positions[self._first]

    def newest(self) -> int:
        """Its position; 0 where nothing is kept."""
        return self._positions[-1] if len(self) else 0

    def drop(self, message: TopicMessage) -> None:
        """The oldest one leaves."""
        assert self.oldest() == message.position, "only the oldest message leaves"
        self._first += 1
        self.size_bytes -= message_bytes(message)
        if self._first > 64 and self._first * 2 > len(self._positions):
            del self._positions[: self._first]
            self._first = 0

    def after(self, position: int) -> Iterator[int]:
        """Positions behind that one, in order."""
        at = bisect_right(self._positions, position, self._first)
        while at < len(self._positions):
            yield self._positions[at]
            at += 1

    def image(self) -> object:
        return self._positions[self._first :], self.size_bytes


def message_bytes(message: TopicMessage) -> int:
    """What a message counts against the bytes that are kept."""
    headers = sum(len(header.key) + len(header.value) for header in message.headers)
    return len(message.body) + headers + MESSAGE_OVERHEAD_BYTES


def entry_bytes(entry: KvEntry) -> int:
    """What a key and its value count against the bytes of their tenant."""
    return len(entry.key) + len(entry.value) + KEY_OVERHEAD_BYTES


class LookUps:
    """What the rules of coordination find things by, and which kinds of things have changed of late."""

    __slots__ = (
        "alarms",
        "all_key_bytes",
        "backlogs",
        "changed",
        "key_bytes",
        "keys",
        "message_bytes",
        "task_locks",
        "topics",
        "under",
    )

    def __init__(self) -> None:
        self.alarms = Alarms()
        self.task_locks: dict[TaskId, dict[str, None]] = {}  # locks that a task holds or waits for
        self.keys: dict[str, list[str]] = {}  # of each tenant, sorted
        self.key_bytes: dict[str, int] = {}
        self.all_key_bytes = 0
        self.topics: dict[str, dict[str, None]] = {}  # names by tenant
        self.under: dict[str, dict[str, list[str]]] = {}  # by tenant: names of topics that patterns found
        self.backlogs: dict[str, Backlog] = {}
        self.message_bytes = 0
        self.changed: set[str] = set()  # "lock", "key", "topic", "schedule": emptied by the shell

    # --- locks

    def lock_changed(self, key: str, before: Lock | None, after: Lock | None) -> None:
        for task_id in _tasks_of(before):
            held = self.task_locks[task_id]
            held.pop(key, None)
            if not held:
                del self.task_locks[task_id]
        for task_id in _tasks_of(after):
            self.task_locks.setdefault(task_id, {})[key] = None
        self.alarms.set("lock", key, _lock_alarm_ms(after))
        self.changed.add("lock")

    # --- keys

    def key_changed(self, name: str, before: KvEntry | None, after: KvEntry | None) -> None:
        for entry, sign in ((before, -1), (after, 1)):
            if entry is not None:
                size = sign * entry_bytes(entry)
                self.all_key_bytes += size
                self.key_bytes[entry.tenant] = self.key_bytes.get(entry.tenant, 0) + size
        if after is not None and before is None:
            insort(self.keys.setdefault(after.tenant, []), after.key)
        if after is None and before is not None:
            self._drop_key(before)
        self.alarms.set("key", name, after.expires_at_ms if after is not None else 0)
        self.changed.add("key")

    def _drop_key(self, entry: KvEntry) -> None:
        keys = self.keys[entry.tenant]
        del keys[bisect_left(keys, entry.key)]
        if not keys:
            del self.keys[entry.tenant], self.key_bytes[entry.tenant]

    def keys_from(self, tenant: str, prefix: str, after: str = "") -> Iterator[str]:
        """Keys of a tenant that begin so, behind `after`, in order."""
        keys = self.keys.get(tenant, [])
        at = max(bisect_left(keys, prefix), bisect_right(keys, after) if after else 0)
        while at < len(keys) and keys[at].startswith(prefix):
            yield keys[at]
            at += 1

    # --- topics

    def add_topic(self, topic: Topic) -> None:
        self.topics.setdefault(topic.tenant, {})[topic.name] = None
        self.under.pop(topic.tenant, None)
        self.backlogs[name_key(topic.tenant, topic.name)] = Backlog()

    def drop_topic(self, topic: Topic) -> None:
        names = self.topics[topic.tenant]
        self.under.pop(topic.tenant, None)
        del names[topic.name], self.backlogs[name_key(topic.tenant, topic.name)]
        if not names:
            del self.topics[topic.tenant]
        self.alarms.set("topic", name_key(topic.tenant, topic.name), 0)

    def add_message(self, message: TopicMessage) -> None:
        self.backlogs[name_key(message.tenant, message.topic)].add(message)
        self.message_bytes += message_bytes(message)

    def drop_message(self, message: TopicMessage) -> None:
        self.backlogs[name_key(message.tenant, message.topic)].drop(message)
        self.message_bytes -= message_bytes(message)

    def watch_age(self, topic: Topic, messages: Mapping[int, TopicMessage]) -> None:
        """The oldest message of the topic leaves when it is too old."""
        key = name_key(topic.tenant, topic.name)
        backlog = self.backlogs[key]
        ages = topic.kept_ms and len(backlog)
        self.alarms.set("topic", key, messages[backlog.oldest()].at_ms + topic.kept_ms if ages else 0)

    def image(self) -> object:
        """Everything that counts, to compare with one built anew."""
        topics = {tenant: sorted(names) for tenant, names in self.topics.items()}
        backlogs = {key: backlog.image() for key, backlog in self.backlogs.items()}
        sizes = self.all_key_bytes, self.key_bytes, self.message_bytes
        return self.alarms.image(), self.task_locks, self.keys, sizes, topics, backlogs


def _tasks_of(lock: Lock | None) -> dict[TaskId, None]:
    if lock is None:
        return {}
    owners = [lock.task_id, *(waiter.task_id for waiter in lock.waiters)]
    return {task_id: None for task_id in owners if task_id}


def _lock_alarm_ms(lock: Lock | None) -> int:
    if lock is None:
        return 0
    return min([lock.expires_at_ms, *(waiter.until_ms for waiter in lock.waiters)])
