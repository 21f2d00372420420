"""Rules of consumer groups: each message goes to one consumer at a time, until it is acknowledged.

Invariants: what a group was given and has not acknowledged is in `unacked`, by position, none behind
`cursor`; a message is given out again only when its time is over or it was refused; the cursor goes back by a
seek only."""

from __future__ import annotations

from dataclasses import replace

from coterie.core.commands import Accepted, Outcome, Rejected
from coterie.core.coordination import bounds
from coterie.core.coordination.answers import name_fault
from coterie.core.coordination.commands import AckMessages, DeleteGroup, FetchMessages, SeekGroup, SetGroup
from coterie.core.coordination.look_ups import name_key
from coterie.core.coordination.nouns import ConsumerGroup, Delivery, Topic, TopicMessage
from coterie.core.coordination.topics import append, read
from coterie.core.nouns import Label
from coterie.core.state import ClusterState, Moment

DEAD = "$dead."


def set_group(state: ClusterState, command: SetGroup, moment: Moment) -> Outcome:
    refused = _fault(state, command)
    if refused is not None:
        return refused
    key = name_key(command.tenant, command.name)
    known = state.groups.get(key)
    start = min(max(command.start, 0), state.meta.message_position)
    group = known or ConsumerGroup(command.tenant, command.name, command.pattern, start)
    after = replace(
        group,
        pattern=command.pattern,
        ack_wait_ms=command.ack_wait_ms,
        deliveries_max=command.deliveries_max,
    )
    _store(state, after)
    return Accepted(duplicate=after == known)


def _fault(state: ClusterState, command: SetGroup) -> Rejected | None:
    named = (("tenant", command.tenant), ("name", command.name), ("pattern", command.pattern))
    for what, name in named:
        refused = name_fault(what, name, bounds.NAME_CHARS_MAX)
        if refused is not None:
            return refused
    if not 1 <= command.ack_wait_ms <= bounds.ACK_WAIT_MS_MAX or command.deliveries_max < 0:
        text = f"ack_wait_ms is in 1..{bounds.ACK_WAIT_MS_MAX}, deliveries_max not negative"
        return Rejected("BAD_GROUP", text)
    if name_key(command.tenant, command.name) in state.groups:
        return None
    of_tenant = sum(group.tenant == command.tenant for group in state.groups.values())
    if of_tenant >= bounds.GROUPS_MAX or len(state.groups) >= bounds.ALL_GROUPS_MAX:
        return Rejected("TOO_MANY_GROUPS", f"a tenant has at most {bounds.GROUPS_MAX} groups; delete some")
    return None


def delete_group(state: ClusterState, command: DeleteGroup, moment: Moment) -> Outcome:
    known = state.groups.pop(name_key(command.tenant, command.name), None)
    return Accepted(duplicate=known is None)


def fetch(state: ClusterState, command: FetchMessages, moment: Moment) -> Outcome:
    """`number` of the answer: how many messages there are for this consumer, under its fetch id."""
    group = state.groups.get(name_key(command.tenant, command.group))
    if group is None:
        return _no_group(command.group)
    if not 1 <= command.count <= bounds.FETCH_MAX or not command.fetch_id:
        return Rejected("BAD_FETCH", f"count is in 1..{bounds.FETCH_MAX}, and fetch_id is given")
    known = sum(one.fetch_id == command.fetch_id for one in group.unacked)
    if known:
        return Accepted(duplicate=True, number=known)
    group, given = _give_again(state, group, command, moment)
    room = min(command.count - given, bounds.UNACKED_MAX - len(group.unacked))
    fresh = read(state, group.tenant, group.pattern, group.cursor, room) if room > 0 else []
    until_ms = moment.at_ms + group.ack_wait_ms
    deliveries = [Delivery(message.position, command.fetch_id, until_ms) for message in fresh]
    cursor = fresh[-1].position if fresh else group.cursor
    _store(state, replace(group, cursor=cursor, unacked=(*group.unacked, *deliveries)))
    return Accepted(number=given + len(fresh))


def _give_again(
    state: ClusterState, group: ConsumerGroup, command: FetchMessages, moment: Moment
) -> tuple[ConsumerGroup, int]:
    """Take up what nobody acknowledged in time; what was given out too often is given up."""
    kept: list[Delivery] = []
    given, lost, dead = 0, 0, 0
    until_ms = moment.at_ms + group.ack_wait_ms
    for one in group.unacked:
        message = state.messages.get(one.position)
        if message is None:
            lost += 1
        elif one.until_ms > moment.at_ms or given >= command.count:
            kept.append(one)
        elif (
            group.deliveries_max
            and one.count >= group.deliveries_max
            and _bury(state, group, message, moment)
        ):
            dead += 1
        else:
            kept.append(Delivery(one.position, command.fetch_id, until_ms, one.count + 1))
            given += 1
    return replace(group, unacked=tuple(kept), lost=group.lost + lost, dead=group.dead + dead), given


def _bury(state: ClusterState, group: ConsumerGroup, message: TopicMessage, moment: Moment) -> bool:
    """Into the group's topic of dead messages; False: there is no room for another topic."""
    name = DEAD + group.name
    topic = state.topics.get(name_key(group.tenant, name))
    if topic is None:
        if len(state.topics) >= bounds.ALL_TOPICS_MAX:
            return False
        topic = Topic(group.tenant, name, moment.at_ms)
        state.topics[name_key(group.tenant, name)] = topic
        state.coordination.add_topic(topic)
    headers = (Label("topic", message.topic), Label("position", str(message.position)))
    append(state, topic, message.body, headers, message.publisher, moment)
    return True


def ack(state: ClusterState, command: AckMessages, moment: Moment) -> Outcome:
    """`number` of the answer: how many of them were open."""
    group = state.groups.get(name_key(command.tenant, command.group))
    if group is None:
        return _no_group(command.group)
    meant = set(command.positions)
    if not command.refused:
        unacked = tuple(one for one in group.unacked if one.position not in meant)
    else:
        until_ms = moment.at_ms + max(0, min(command.delay_ms, bounds.ACK_WAIT_MS_MAX))
        unacked = tuple(
            replace(one, until_ms=until_ms, fetch_id="") if one.position in meant else one
            for one in group.unacked
        )
    count = sum(one.position in meant for one in group.unacked)
    _store(state, replace(group, unacked=unacked))
    return Accepted(number=count)


def seek(state: ClusterState, command: SeekGroup, moment: Moment) -> Outcome:
    group = state.groups.get(name_key(command.tenant, command.group))
    if group is None:
        return _no_group(command.group)
    position = min(max(command.position, 0), state.meta.message_position)
    _store(state, replace(group, cursor=position, unacked=()))
    return Accepted(number=position)


def _no_group(name: str) -> Rejected:
    return Rejected("GROUP_NOT_FOUND", f"no group {name}; make it with SetGroup first")


def _store(state: ClusterState, group: ConsumerGroup) -> None:
    state.groups[name_key(group.tenant, group.name)] = group
    state.coordination.changed.add("topic")
