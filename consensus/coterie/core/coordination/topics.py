"""Rules of topics: messages in one order for all, kept as long as the topic says.

Invariants: positions only grow and are never reused; the sequence numbers of what is kept of a topic have no
hole; the oldest leaves first; nothing is kept beyond the count, bytes and age of its topic, or beyond those
of all."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

from coterie.core.commands import Accepted, Outcome, Rejected
from coterie.core.coordination import bounds
from coterie.core.coordination.answers import answered, name_fault, remember
from coterie.core.coordination.commands import DeleteTopic, PublishMessage, SetTopic
from coterie.core.coordination.look_ups import name_key
from coterie.core.coordination.nouns import Topic, TopicMessage
from coterie.core.nouns import Label, evolve
from coterie.core.state import ClusterState, Moment

HEADERS_MAX = 16
ONE, REST, REST_OR_NONE, HIDDEN = frozenset("*+"), ">", "#", "$"
WILD = ONE | {REST, REST_OR_NONE}
PATTERNS_MAX = 64  # of one tenant, whose topics are known
ROOM_BYTES = bounds.BODY_BYTES_MAX + bounds.MESSAGE_OVERHEAD_BYTES + HEADERS_MAX * 2 * bounds.NAME_CHARS_MAX


def publish(state: ClusterState, command: PublishMessage, moment: Moment) -> Outcome:
    """`number` of the answer is the position."""
    request = f"{command.tenant}/topic/{command.request_id}" if command.request_id else ""
    known = answered(state, request, command.digest)
    if known is not None:
        return known
    refused = _publish_refused(command)
    topic = refused or _topic(state, command.tenant, command.topic, moment)
    if isinstance(topic, Rejected):
        return topic
    position = append(state, topic, command.body, command.headers, command.publisher, moment)
    if request:
        remember(state, request, command.digest, position, moment)
    return Accepted(number=position)


def _publish_refused(command: PublishMessage) -> Rejected | None:
    if len(command.body) > bounds.BODY_BYTES_MAX:
        return Rejected("BAD_MESSAGE", f"a message has at most {bounds.BODY_BYTES_MAX} bytes")
    texts = [text for header in command.headers for text in (header.key, header.value)]
    texts.append(command.publisher)
    if len(command.headers) > HEADERS_MAX or any(len(text) > bounds.NAME_CHARS_MAX for text in texts):
        text = f"at most {HEADERS_MAX} headers, of at most {bounds.NAME_CHARS_MAX} characters"
        return Rejected("BAD_MESSAGE", text)
    return None


def _topic(state: ClusterState, tenant: str, name: str, moment: Moment) -> Topic | Rejected:
    """The topic; a new one if there is none."""
    topic = state.topics.get(name_key(tenant, name))
    if topic is not None:
        return topic
    refused = name_fault("tenant", tenant, bounds.NAME_CHARS_MAX)
    refused = refused or name_fault("topic", name, bounds.NAME_CHARS_MAX)
    if refused is not None:
        return refused
    of_tenant = len(state.coordination.topics.get(tenant, ()))
    if of_tenant >= bounds.TOPICS_MAX or len(state.topics) >= bounds.ALL_TOPICS_MAX:
        return Rejected("TOO_MANY_TOPICS", f"a tenant has at most {bounds.TOPICS_MAX} topics; delete some")
    topic = Topic(tenant, name, moment.at_ms)
    state.topics[name_key(tenant, name)] = topic
    state.coordination.add_topic(topic)
    return topic


def append(
    state: ClusterState,
    topic: Topic,
    body: bytes,
    headers: tuple[Label, ...],
    publisher: str,
    moment: Moment,
) -> int:
    position, sequence = state.meta.message_position + 1, topic.sequence + 1
    message = TopicMessage(
        topic.tenant, topic.name, position, sequence, body, moment.at_ms, headers, publisher
    )
    state.meta = evolve(state.meta, message_position=position)
    state.messages[position] = message
    state.coordination.add_message(message)
    trim(state, replace(topic, sequence=sequence), moment)
    over = state.coordination
    while len(state.messages) > bounds.MESSAGES_MAX or over.message_bytes > bounds.MESSAGES_BYTES_MAX:
        oldest = next(iter(state.messages.values()))
        of_oldest = state.topics[name_key(oldest.tenant, oldest.topic)]
        _store(state, _without_oldest(state, of_oldest))
    state.coordination.changed.add("topic")
    return position


def trim(state: ClusterState, topic: Topic, moment: Moment) -> None:
    """Keep no more of it than it says."""
    backlog = state.coordination.backlogs[name_key(topic.tenant, topic.name)]
    while len(backlog) and (
        len(backlog) > topic.kept_count
        or backlog.size_bytes > topic.kept_bytes
        or (topic.kept_ms and state.messages[backlog.oldest()].at_ms + topic.kept_ms <= moment.at_ms)
    ):
        topic = _without_oldest(state, topic)
    _store(state, topic)


def _without_oldest(state: ClusterState, topic: Topic) -> Topic:
    backlog = state.coordination.backlogs[name_key(topic.tenant, topic.name)]
    message = state.messages.pop(backlog.oldest())
    state.coordination.drop_message(message)
    return replace(topic, forgotten=message.position)


def _store(state: ClusterState, topic: Topic) -> None:
    state.topics[name_key(topic.tenant, topic.name)] = topic
    state.coordination.watch_age(topic, state.messages)


def set_topic(state: ClusterState, command: SetTopic, moment: Moment) -> Outcome:
    count, size = command.kept_count or bounds.KEPT_COUNT, command.kept_bytes or bounds.KEPT_BYTES
    if not 1 <= count <= bounds.KEPT_COUNT_MAX or not ROOM_BYTES <= size <= bounds.KEPT_BYTES_MAX:
        text = f"1..{bounds.KEPT_COUNT_MAX} messages and {ROOM_BYTES}..{bounds.KEPT_BYTES_MAX} bytes are kept"
        return Rejected("BAD_TOPIC", text)
    if not 0 <= command.kept_ms <= bounds.TTL_MS_MAX:
        return Rejected("BAD_TOPIC", f"kept_ms is in 0..{bounds.TTL_MS_MAX}")
    topic = _topic(state, command.tenant, command.name, moment)
    if isinstance(topic, Rejected):
        return topic
    trim(state, replace(topic, kept_count=count, kept_bytes=size, kept_ms=command.kept_ms), moment)
    return Accepted()


def delete_topic(state: ClusterState, command: DeleteTopic, moment: Moment) -> Outcome:
    key = name_key(command.tenant, command.name)
    topic = state.topics.get(key)
    if topic is None:
        return Accepted(duplicate=True)
    while len(state.coordination.backlogs[key]):
        topic = _without_oldest(state, topic)
    del state.topics[key]
    state.coordination.drop_topic(topic)
    return Accepted()


# --- reading


def matches(pattern: str, topic: str) -> bool:
    """Whether a topic falls under a pattern of tokens with dots between them: `*` or `+` is any one token;
    at the end `>` is one or more, `#` none or more (the signs of NATS and of MQTT). Topics that begin with
    `$` are only found by their own first token."""
    if topic.startswith(HIDDEN) and pattern[:1] in WILD:
        return False
    wanted, tokens = pattern.split("."), topic.split(".")
    for place, token in enumerate(wanted):
        if token in (REST, REST_OR_NONE) and place == len(wanted) - 1:
            return len(tokens) >= place + (token == REST)
        if place >= len(tokens) or (token not in ONE and token != tokens[place]):
            return False
    return len(tokens) == len(wanted)


def _names_under(state: ClusterState, tenant: str, pattern: str) -> list[str]:
    """Names of the tenant's topics under the pattern, kept until it has other topics: whoever waits for
    messages asks for them again and again."""
    names = state.coordination.topics.get(tenant, {})
    if not names or WILD.isdisjoint(pattern):
        return [pattern] if pattern in names else []
    known = state.coordination.under.setdefault(tenant, {})
    if pattern not in known:
        if len(known) >= PATTERNS_MAX:
            known.clear()
        known[pattern] = [name for name in names if matches(pattern, name)]
    return known[pattern]


def topics_under(state: ClusterState, tenant: str, pattern: str) -> Iterator[Topic]:
    """The tenant's topics that fall under the pattern."""
    return (state.topics[name_key(tenant, name)] for name in _names_under(state, tenant, pattern))


def read(state: ClusterState, tenant: str, pattern: str, after: int, count: int) -> list[TopicMessage]:
    """The next messages under a pattern behind a position, in order."""
    backlogs = state.coordination.backlogs
    found = (backlogs[name_key(tenant, name)] for name in _names_under(state, tenant, pattern))
    streams = [backlog.after(after) for backlog in found if backlog.newest() > after]
    return [state.messages[position] for position in islice(heapq.merge(*streams), count)]


def forgotten(state: ClusterState, tenant: str, pattern: str, after: int) -> list[Topic]:
    """Topics under the pattern of which messages behind that position are not kept any more."""
    return [topic for topic in topics_under(state, tenant, pattern) if topic.forgotten > after]
