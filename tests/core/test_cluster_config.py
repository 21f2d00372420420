"""Revisions of the configuration: one follows the other, and the newest one's policy holds."""

from __future__ import annotations

from typing import Any

import pytest

from coterie.core.canonical import state_hash
from coterie.core.cluster_config import DOCUMENT_CHARS_MAX, REVISIONS_MAX, newest
from coterie.core.commands import Accepted, ConfigureCluster, Rejected
from coterie.core.config_commands import ApplyConfig
from coterie.core.nouns import Policy
from coterie.raft import codec
from tests.core.builders import CoreCluster, submit_command

POLICY = Policy(pending_tasks_max=2)


def command(expected: int, document: str = "{}", policy: Policy = POLICY, **more: Any) -> ApplyConfig:
    return ApplyConfig(document, policy, expected, "user:ann", **more)


def code(outcome: object) -> str:
    return outcome.code if isinstance(outcome, Rejected) else "OK"


def test_a_revision_is_in_force_from_its_entry_on() -> None:
    core = CoreCluster()
    core.do(ConfigureCluster("c", "c", Policy()))
    assert core.do(command(0, '{"a":1}', note="why")) == Accepted(number=1)
    last = newest(core.state)
    assert last is not None
    assert (last.revision, last.by, last.note, last.at_ms) == (1, "user:ann", "why", core.now_ms)
    assert core.state.meta.policy == POLICY
    told = [code(core.do(submit_command(f"t{number}"))) for number in range(3)]
    assert told == ["OK", "OK", "QUEUE_FULL"]
    core.do(command(1, "{}", Policy(pending_tasks_max=3)))
    assert code(core.do(submit_command("t3"))) == "OK", "at once"


def test_one_that_was_made_from_another_revision_is_refused() -> None:
    core = CoreCluster()
    core.do(command(0))
    for stale in (0, 2):
        assert code(core.do(command(stale, '{"b":1}'))) == "REVISION_MISMATCH"
    assert core.state.meta.config_revision == 1 and len(core.state.config) == 1


def test_the_same_again_changes_nothing_and_a_request_counts_once() -> None:
    core = CoreCluster()
    core.do(command(0))
    assert core.do(command(1)) == Accepted(duplicate=True, number=1)
    asked = command(1, '{"b":1}', request_id="r", digest=b"1")
    assert core.do(asked) == Accepted(number=2)
    core.do(command(2, '{"c":1}'))
    assert core.do(asked) == Accepted(duplicate=True, number=2), "also when it was followed by another one"
    assert code(core.do(command(3, '{"d":1}', request_id="r", digest=b"2"))) == "REQUEST_ID_REUSED"


@pytest.mark.parametrize("wrong", [{"document": "x" * (DOCUMENT_CHARS_MAX + 1)}, {"note": "x" * 1_001}])
def test_what_is_too_large_is_refused(wrong: dict[str, Any]) -> None:
    core = CoreCluster()
    assert code(core.do(command(0, **wrong))) == "CONFIG_TOO_LARGE"
    assert not core.state.config and core.state.meta.policy == Policy()


def test_old_revisions_go_and_the_newest_outlives_a_snapshot() -> None:
    core = CoreCluster()
    for number in range(REVISIONS_MAX + 5):
        core.do(command(number, f'{{"n":{number}}}'))
    assert (min(core.state.config), len(core.state.config)) == (6, REVISIONS_MAX)
    again = codec.decode_state(codec.encode_state(core.state))
    assert newest(again) == newest(core.state) and state_hash(again) == state_hash(core.state)
    image = core.state.copy() if hasattr(core.state, "copy") else again
    core.do(command(REVISIONS_MAX + 5))
    assert len(image.config) == REVISIONS_MAX and max(image.config) == REVISIONS_MAX + 5
    assert state_hash(again) != state_hash(core.state)
