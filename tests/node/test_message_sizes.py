"""What a node sends, the client and the helpers of operators take."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from coterie.client.endpoints import _CHANNEL_OPTIONS
from coterie.node import introduction
from coterie.node.dead_letters import ANSWER_BYTES_MAX as LETTER_BYTES_MAX
from coterie.node.debugger import service_rows
from coterie.node.gateway import ANSWER_BYTES_MAX
from coterie.node.links import FRAME_BYTES_MAX
from coterie.node.localcluster import wait

RECEIVED = "grpc.max_receive_message_length"


def taken(options: Iterable[tuple[str, Any]]) -> int:
    return int(dict(options).get(RECEIVED, 4 << 20))  # what gRPC takes when it is not told


def test_the_client_takes_every_answer_that_a_node_gives() -> None:
    """One above the client's limit would be a bare RESOURCE_EXHAUSTED, on every node again."""
    largest = max(ANSWER_BYTES_MAX, LETTER_BYTES_MAX, service_rows.ANSWER_BYTES_MAX, FRAME_BYTES_MAX)
    assert taken(_CHANNEL_OPTIONS) > largest


def test_helpers_take_every_answer_that_a_node_gives() -> None:
    assert taken(wait.CHANNEL_OPTIONS) > FRAME_BYTES_MAX
    assert taken(introduction.CHANNEL_OPTIONS) > FRAME_BYTES_MAX
