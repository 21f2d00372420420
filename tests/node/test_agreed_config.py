"""The configuration that the cluster agrees on: read, checked, merged, and put in force on a node."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from coterie.core.commands import Command, ConfigureCluster, Outcome
from coterie.core.config_commands import ApplyConfig
from coterie.node.config import ConfigError, NodeSettings, load_config, node_settings
from coterie.node.config.document import KEYS, document_of
from coterie.node.config.replicated import effective, in_full, merged, read, split
from coterie.node.config_service import ConfigService
from coterie.node.live import LiveSettings
from coterie.node.rpc import Gate
from coterie.node.security.principal import NOBODY, Principal, enter
from coterie.v1 import config_pb2 as pb
from tests.core.builders import CoreCluster
from tests.node.test_control import Context, Refused

FILE = """
cluster: {name: c, nodes: [{id: n1, host: 127.0.0.1, port: 4001}]}
security: {allowInsecureLoopback: true}
distribution: {strategy: hash, taskQueue: {maxPending: 500, retryPolicy: {maxBackoff: 90s}}}
"""
GIVEN = {
    "distribution.strategy": "hash",
    "distribution.taskQueue.maxPending": 500,
    "distribution.taskQueue.retryPolicy.maxBackoff": "90s",
}


@pytest.fixture
def settings(tmp_path: Path) -> NodeSettings:
    path = tmp_path / "cluster.yaml"
    path.write_text(FILE, encoding="utf-8")
    return node_settings(load_config([path], {}).config)


# --- documents


def test_a_document_is_what_was_written_and_full_has_the_rest(settings: NodeSettings) -> None:
    assert json.loads(settings.replicated) == GIVEN
    full = in_full(GIVEN)
    assert {**full, **GIVEN} == full and full["distribution.taskQueue.ageing"] == "1m"
    assert all(any(key.startswith(section.split("_")[0]) for section, *_ in KEYS) for key in full)


def test_a_node_runs_by_the_document_as_if_its_file_said_so(settings: NodeSettings) -> None:
    assert effective(settings, GIVEN) == settings
    other = effective(settings, {"distribution.strategy": "least-loaded"})
    assert (other.routing.strategy, other.max_pending) == ("least-loaded", 10_000)
    assert (other.node_id, other.grpc_port) == (settings.node_id, settings.grpc_port)


CHANGED = {
    "distribution.strategy": "hash",
    "distribution.adaptive.rebalanceInterval": "7s",
    "distribution.adaptive.threshold": 0.7,
    "distribution.routing.affinity": False,
    "distribution.routing.antiAffinity": True,
    "distribution.routing.locality": "same-zone",
    "distribution.taskQueue.type": None,  # one value only
    "distribution.taskQueue.maxPending": 7,
    "distribution.taskQueue.maxRunning": 7,
    "distribution.taskQueue.attemptTimeout": "7s",
    "distribution.taskQueue.retryPolicy.maxAttempts": 7,
    "distribution.taskQueue.retryPolicy.backoff": "constant",
    "distribution.taskQueue.retryPolicy.initialBackoff": "7s",
    "distribution.taskQueue.retryPolicy.maxBackoff": "7s",
    "distribution.taskQueue.retryPolicy.nonRetryable": ["BAD"],
    "distribution.taskQueue.retryPolicy.deadLetter": True,
    "distribution.taskQueue.ageing": "7s",
    "distribution.taskQueue.tenantPendingPercent": 7,
    "distribution.taskQueue.deadLettersMax": 7,
    "distribution.taskQueue.crashNodesMax": 7,
    "distribution.taskQueue.nodeLossesMax": 7,
    "faultTolerance.circuitBreaker.enabled": False,
    "faultTolerance.circuitBreaker.failureThreshold": 7,
    "faultTolerance.circuitBreaker.recoveryTimeout": "7s",
    "faultTolerance.circuitBreaker.halfOpenRequests": 7,
    "faultTolerance.healthCheck.flapMemory": "7s",
    "goals.model": "main",
    "goals.temperature": 0.7,
    "goals.answerTemperature": 0.7,
    "goals.maxTokens": 77,
    "goals.cacheTtl": "7s",
    "goals.selection": "score",
    "goals.skills": ["llm"],
    "goals.tasksMax": 7,
    "goals.approve": True,
    "goals.aggregate": "list",
    "routingRules": [{"name": "a", "pattern": "b", "agents": ["c"]}],
    "limits.liveBytesMax": "77MiB",
    "limits.taskBytesMax": "7MiB",
    "limits.stepsPerTaskMax": 7,
}


def test_every_key_that_is_agreed_on_has_its_effect_on_a_node_that_runs(settings: NodeSettings) -> None:
    assert set(CHANGED) == set(in_full({"distribution.taskQueue.maxRunning": 1})), "a key without a test"
    plain = effective(settings, {})
    for key, value in CHANGED.items():
        if value is not None:
            told = effective(settings, {key: value})
            differs = [
                told.policy != plain.policy,
                told.plan_policy != plain.plan_policy,
                told.retry != plain.retry,
                told.default_attempt_timeout_ms != plain.default_attempt_timeout_ms,
                told.max_running != plain.max_running,
                told.goals != plain.goals,
            ]
            assert any(differs), key


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("cluster: {name: x}", "cluster.name: is of each node's own file"),
        ("security: {auth: off}", "security.auth: is of each node's own file"),
        ("distribution: {strateggy: hash}", "distribution.strateggy: unknown key; did you mean strategy?"),
        ("distribution: {strategy: hsah}", "distribution.strategy: 'hsah' is not known; did you mean hash?"),
        ("distribution: {taskQueue: {type: fifo}}", "distribution.taskQueue.type: fifo: the queue is"),
        ("limits: {taskBytesMax: 49MiB}", "limits.taskBytesMax: 49MiB is too much: at most 48MiB"),
        ("limits: {liveBytesMax: 1MiB}", "limits.liveBytesMax: 1MiB is less than taskBytesMax"),
        ("distribution: [1]", "distribution: "),
        ("- 1", "expected keys and values at the top"),
        ("a: b: c", "not valid YAML"),
    ],
)
def test_what_cannot_be_is_refused_with_its_key(text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(text)
    assert problem in str(caught.value) and "(document:" not in str(caught.value)


def test_a_key_by_its_other_name_is_kept_under_the_one_name() -> None:
    given = read("multi_agent: {coordinator: {max_concurrent_tasks: 4, task_timeout: 6m}}")
    queue = "distribution.taskQueue"
    assert document_of(given) == {f"{queue}.maxRunning": 4, f"{queue}.attemptTimeout": "6m"}


def test_what_is_not_given_stays_and_what_is_reset_has_its_default() -> None:
    assert merged(GIVEN, {"distribution.strategy": "adaptive"}, []) == {
        **GIVEN,
        "distribution.strategy": "adaptive",
    }
    assert merged(GIVEN, {}, ["distribution.taskQueue"]) == {"distribution.strategy": "hash"}
    with pytest.raises(ConfigError, match=r"distribution\.routing: has its default already"):
        merged(GIVEN, {}, ["distribution.routing"])


def test_files_are_split_into_what_is_agreed_on_and_what_is_each_nodes_own(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(FILE, encoding="utf-8")
    text, others = split([path])
    assert document_of(read(text)) == GIVEN
    assert others == ("cluster.name", "cluster.nodes", "security.allowInsecureLoopback")
    path.write_text("distribution: {strateggy: hash}", encoding="utf-8")
    with pytest.raises(ConfigError, match="did you mean"):
        split([path])


# --- a node that runs


class Desk:
    """The service and the live settings over one state."""

    def __init__(self, settings: NodeSettings) -> None:
        self.core = CoreCluster()
        self.during: list[Command] = []  # applied while a change of the service is on its way
        self.live = LiveSettings(settings, lambda: self.core.state)
        reader: Any = SimpleNamespace(barrier=self._barrier)
        proposer: Any = SimpleNamespace(one=self._one)
        self.service: Any = ConfigService(lambda: self.core.state, reader, proposer, self.live, Gate(9))
        self.core.do(ConfigureCluster("c", "c", settings.policy))
        self.put(settings.replicated)

    def put(self, document: str) -> None:
        policy = effective(self.live(), json.loads(document)).policy
        self.core.do(ApplyConfig(document, policy, self.core.state.meta.config_revision, "node:n1"))

    async def _barrier(self, mode: object, timeout_s: float) -> None:
        pass

    async def _one(self, command: Command, timeout_s: float) -> Outcome:
        while self.during:
            self.core.do(self.during.pop())
        return self.core.do(command)

    async def apply(self, text: str, **more: Any) -> Any:
        return await self.service.ApplyConfig(pb.ApplyConfigRequest(document=text, **more), Context())


@pytest.fixture
def desk(settings: NodeSettings) -> Iterator[Desk]:
    enter(Principal("user:ann"))
    yield Desk(settings)
    enter(NOBODY)


async def refused(call: Any) -> Context:
    context = Context()
    with pytest.raises(Refused):
        await call(context)
    return context


async def test_a_change_is_in_force_and_in_the_history(desk: Desk) -> None:
    done = await desk.apply("distribution: {taskQueue: {maxPending: 9}}", note="less")
    [change] = done.changes
    assert (change.key, change.before, change.after) == ("distribution.taskQueue.maxPending", "500", "9")
    assert (done.config.revision, done.config.by, done.config.note) == (2, "user:ann", "less")
    assert desk.live().max_pending == desk.core.state.meta.policy.pending_tasks_max == 9
    assert desk.live().routing.strategy == "hash", "what was not given stays"
    listed = await desk.service.ListConfigRevisions(pb.ListConfigRevisionsRequest(), Context())
    assert [(one.revision, one.by) for one in listed.revisions] == [(2, "user:ann"), (1, "node:n1")]
    old = await desk.service.GetConfig(pb.GetConfigRequest(revision=1), Context())
    assert old.given["distribution.taskQueue.maxPending"] == "500"


async def test_looking_at_a_change_changes_nothing(desk: Desk) -> None:
    told = await desk.apply(
        "distribution: {strategy: adaptive}", reset=["distribution.taskQueue"], validate_only=True
    )
    assert [change.key for change in told.changes] == sorted(GIVEN)
    assert desk.core.state.meta.config_revision == 1 and desk.live().max_pending == 500


async def test_a_rollback_is_a_revision_of_its_own(desk: Desk) -> None:
    await desk.apply("distribution: {taskQueue: {maxPending: 9}}")
    done = await desk.service.RollBackConfig(pb.RollBackConfigRequest(revision=1), Context())
    assert (done.config.revision, done.config.note) == (3, "back to revision 1")
    assert desk.live().max_pending == 500
    context = await refused(lambda c: desk.service.RollBackConfig(pb.RollBackConfigRequest(revision=9), c))
    assert context.reason == "CONFIG_REVISION_NOT_FOUND"


async def test_a_revision_that_is_expected_has_to_hold(desk: Desk) -> None:
    for expected in (2, 5):
        request = pb.ApplyConfigRequest(document="{}", reset=["distribution"], expected_revision=expected)
        context = await refused(lambda c, request=request: desk.service.ApplyConfig(request, c))
        assert (context.code, context.reason) == (grpc.StatusCode.ABORTED, "REVISION_MISMATCH")
    assert desk.core.state.meta.config_revision == 1


async def test_changes_of_two_at_once_are_both_kept(desk: Desk) -> None:
    between = effective(desk.live(), {**GIVEN, "distribution.strategy": "adaptive"})
    desk.during.append(ApplyConfig(between.replicated, between.policy, 1, "user:bob"))
    done = await desk.apply("distribution: {taskQueue: {maxPending: 9}}")
    assert done.config.revision == 3
    assert (desk.live().routing.strategy, desk.live().max_pending) == ("adaptive", 9)


async def test_everything_wrong_is_said_before_anything_is_proposed(desk: Desk) -> None:
    text = "cluster: {name: x}\ndistribution: {strategy: hsah, taskQueue: {maxPending: 0}}"
    request = pb.ApplyConfigRequest(document=text)
    context = await refused(lambda c: desk.service.ApplyConfig(request, c))
    assert context.reason == "BAD_CONFIG"
    assert sorted(context.fields) == [
        "cluster.name",
        "distribution.strategy",
        "distribution.taskQueue.maxPending",
    ]
    together = pb.ApplyConfigRequest(document="limits: {liveBytesMax: 2MiB}")
    assert (await refused(lambda c: desk.service.ApplyConfig(together, c))).fields == ["limits.liveBytesMax"]
    assert desk.core.state.meta.config_revision == 1


def test_a_node_whose_file_says_otherwise_says_so(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    desk.live()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    desk.put('{"distribution.strategy": "adaptive"}')
    desk.live()
    [warning] = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert warning.__dict__["keys"] == sorted(GIVEN)


def test_a_configuration_of_a_newer_version_leaves_the_one_before_in_force(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    before = desk.live()
    desk.core.do(ApplyConfig('{"distribution.undreamt": 1}', before.policy, 1, "user:ann"))
    assert desk.live() == before
    assert any(record.levelno == logging.ERROR for record in caplog.records)
