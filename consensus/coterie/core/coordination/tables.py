"""The tables of the state that belong to coordination."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from coterie.core.coordination.look_ups import LookUps, name_key
from coterie.core.coordination.nouns import (
    Answer,
    ConsumerGroup,
    KvEntry,
    Lock,
    Schedule,
    Tombstone,
    Topic,
    TopicMessage,
)

# Name in the state and in a slice of it, the record, and under what a record stands there.
TABLES: tuple[tuple[str, type, Callable[[Any], Any]], ...] = (
    ("schedules", Schedule, lambda one: name_key(one.tenant, one.schedule_id)),
    ("locks", Lock, lambda one: name_key(one.tenant, one.name)),
    ("kv", KvEntry, lambda one: name_key(one.tenant, one.key)),
    ("tombstones", Tombstone, lambda one: name_key(one.tenant, one.key)),
    ("topics", Topic, lambda one: name_key(one.tenant, one.name)),
    ("messages", TopicMessage, lambda one: one.position),
    ("groups", ConsumerGroup, lambda one: name_key(one.tenant, one.name)),
    ("answers", Answer, lambda one: one.key),
)
SORTED = ("schedules", "locks", "topics", "groups")  # whose order means nothing
ORDERED = ("kv", "tombstones", "messages", "answers")


def look_ups_of(state: Any) -> LookUps:
    """Derived anew from the tables of a state."""
    look_ups = LookUps()
    for key, lock in state.locks.items():
        look_ups.lock_changed(key, None, lock)
    for key, entry in state.kv.items():
        look_ups.key_changed(key, None, entry)
    for topic in state.topics.values():
        look_ups.add_topic(topic)
    for message in state.messages.values():
        look_ups.add_message(message)
    for topic in state.topics.values():
        look_ups.watch_age(topic, state.messages)
    return look_ups
