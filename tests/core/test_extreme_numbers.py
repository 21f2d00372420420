"""Whatever number a command holds, applying it raises nothing, and the state it leads to can be written: else
every node of the cluster would stop at that entry, or at its next snapshot, and again after each restart."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from coterie.core.bounds64 import CLOCK_MS_MAX, INT_MAX
from coterie.core.commands import (
    Accepted,
    AdvanceClock,
    Command,
    FinishTask,
    SetLimit,
    SuspendTask,
    TakeTokens,
)
from coterie.core.machine import apply
from coterie.core.nouns import Data, TaskId, WaitReason
from coterie.core.quotas import Limit
from coterie.core.state import ClusterState, Moment
from coterie.raft import codec
from coterie.raft.errors import NewerVersion
from coterie.v1 import log_pb2
from tests.core.builders import CoreCluster, RandomLog
from tests.core.coordination.random_log import CoordinationLog
from tests.core.story import told

NOW_MS = 1_000  # as the story was told
SIGNED = (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64)
BITS = {
    FieldDescriptor.CPPTYPE_INT32: 31,
    FieldDescriptor.CPPTYPE_INT64: 63,
    FieldDescriptor.CPPTYPE_UINT32: 32,
    FieldDescriptor.CPPTYPE_UINT64: 64,
}
EXTREMES = (0, 1, 1 << 31, 1 << 53, (1 << 63) - 1, -1, -(1 << 53), -(1 << 63))
FOLLOWED_BY = 12  # entries of the story: what a number does is not always seen at once
SHARDS = 16


def changed(command: Command) -> Iterator[tuple[str, Command]]:
    """The command with each extreme in each of its numbers, and what was changed."""
    batch = log_pb2.Batch.FromString(codec.encode_batch([command]))
    for number, (message, field) in enumerate(_numbers(batch.commands[0])):
        for value in _fitting(field):
            other = log_pb2.Batch.FromString(batch.SerializeToString())
            message, field = list(_numbers(other.commands[0]))[number]
            setattr(message, field.name, value)
            with suppress(NewerVersion):  # the number of a name that is not known
                (read,) = codec.decode_batch(other.SerializeToString()) or [None]
                if read is not None:
                    yield f"{field.full_name} = {value}", read


def _fitting(field: Any) -> list[int]:
    bits = BITS[field.cpp_type]
    lowest = -(1 << bits) if field.cpp_type in SIGNED else 0
    return [value for value in EXTREMES if lowest <= value < 1 << bits]


def _numbers(message: Message) -> Iterator[tuple[Message, Any]]:
    """Every number of a message and of those in it, set or not."""
    for field in message.DESCRIPTOR.fields:
        if field.cpp_type in BITS and not field.is_repeated:
            yield message, field
    for field, value in message.ListFields():
        if field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
            for inner in value if field.is_repeated else [value]:
                yield from _numbers(inner)


def at(index: int) -> Moment:
    return Moment(index, NOW_MS + index)


@lru_cache(maxsize=1)
def story() -> list[Command]:
    return told()[0].commands


def check(image: list[bytes], index: int, commands: list[Command], what: str) -> None:
    """Apply them to a copy of the state, and write what comes of it."""
    state = codec.decode_state(image)
    for place, command in enumerate(commands):
        try:
            apply(state, command, at(index + place))
            if place in (0, len(commands) - 1):
                written(state)
        except Exception as error:
            error.add_note(f"{what}; entry {index} of the story and {place} more: {command}")
            raise


def written(state: ClusterState) -> None:
    assert sum(map(len, codec.encode_state(state)))


@pytest.mark.parametrize("shard", range(SHARDS))
def test_no_number_in_a_command_stops_the_cluster(shard: int) -> None:
    """The story has every command and every field; each number of it in turn is an extreme one."""
    state, commands = ClusterState(), story()
    for index, command in enumerate(commands, 1):
        if index % SHARDS == shard and type(command) not in {type(one) for one in commands[: index - 1]}:
            image = list(codec.encode_state(state))
            for what, other in changed(command):
                check(image, index, [other, *commands[index : index + FOLLOWED_BY]], what)
        apply(state, command, at(index))


@pytest.mark.parametrize("kind", [RandomLog, CoordinationLog])
@pytest.mark.parametrize("often", [0.05, 0.5])
@pytest.mark.parametrize("seed", range(10))
def test_no_numbers_in_a_row_stop_the_cluster(kind: Any, often: float, seed: int) -> None:
    dice, log = random.Random(seed), kind(seed)
    cluster: CoreCluster = log.cluster
    cluster.now_ms = 1_790_000_000_000
    for place in range(150):
        command = log._next()
        others = list(changed(command)) if dice.random() < often else []
        cluster.do(dice.choice(others)[1] if others else command)
        if others or place == 149:
            written(cluster.state)


@pytest.mark.parametrize("count", [1, 299, 300])
def test_the_tokens_of_a_slow_limit_can_be_kept(count: int) -> None:
    cluster = CoreCluster(now_ms=1_790_000_000_000)
    limit = Limit("l", rate_count=1, rate_period_ms=366 * 24 * 3_600_000, burst=300)
    assert cluster.do(SetLimit(limit)) == Accepted()
    assert cluster.do(TakeTokens("l", count)) == Accepted()
    written(cluster.state)
    assert cluster.do(SetLimit(replace(limit, burst=1_000_000_000))) == Accepted()
    written(cluster.state)


def test_a_clock_that_is_far_ahead_is_taken_for_the_last_time_there_is() -> None:
    cluster = CoreCluster().with_node("n1")
    cluster.running()
    cluster.do(AdvanceClock((1 << 63) - 1))
    assert cluster.state.meta.clock_ms == CLOCK_MS_MAX
    cluster.do(FinishTask(TaskId("t1"), 1, Data(b"1")))
    written(cluster.state)


def test_a_wait_that_is_longer_than_time_ends_with_it() -> None:
    cluster = CoreCluster(now_ms=1_790_000_000_000).with_node("n1")
    task = cluster.running()
    suspend = SuspendTask(task.task_id, task.attempt, WaitReason.TIMER, "t", 0, INT_MAX)
    assert cluster.do(suspend) == Accepted(task.task_id)
    wait = cluster.task().wait
    assert wait is not None and wait.until_ms == INT_MAX
    written(cluster.state)
