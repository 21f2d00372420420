"""What a node sends, the client and the helpers of operators take."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from coterie.client.endpoints import _CHANNEL_OPTIONS
from coterie.node import introduction
from coterie.node.config.model import LimitsSection
from coterie.node.dead_letters import ANSWER_BYTES_MAX as LETTER_BYTES_MAX
from coterie.node.debugger import service_rows
from coterie.node.gateway import ANSWER_BYTES_MAX
from coterie.node.links import FRAME_BYTES_MAX, ROW_BYTES_MAX
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


def test_a_task_of_the_largest_size_fits_into_a_row_for_a_peer() -> None:
    """A node that copies history would ask for a larger one for ever. A quarter is for what nobody counts."""
    with pytest.raises(ValueError, match="task_bytes_max"):
        LimitsSection.model_validate({"task_bytes_max": f"{ROW_BYTES_MAX * 3 // 4 + 1}"})
