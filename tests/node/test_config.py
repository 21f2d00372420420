"""Reading configuration: the three published files, merging, spellings, and what a node gets of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coterie.core.routing import STRATEGIES
from coterie.node.config import (
    ClusterConfig,
    ConfigError,
    LoadedConfig,
    dev_config,
    dump_config,
    free_ports,
    load_config,
    node_settings,
)

ROOT = Path(__file__).resolve().parents[2]
SEED = Path(__file__).parent / "fixtures" / "seed"
SEED_FILES = [
    SEED / f"{name}.yaml" for name in ("cluster-config", "task-distribution-config", "fault-tolerance-config")
]
ONE_NODE = "cluster: {nodes: [{id: a, host: 127.0.0.1}]}\n"
INSECURE = "security: {allowInsecureLoopback: true}\n"


def load(directory: Path, *texts: str, env: dict[str, str] | None = None) -> LoadedConfig:
    paths = []
    for number, text in enumerate(texts):
        paths.append(directory / f"{number}.yaml")
        paths[-1].write_text(text, encoding="utf-8")
    return load_config(paths, env or {})


def test_the_first_published_file_loads_alone_and_says_when_nodes_are_given_up() -> None:
    loaded = load_config(SEED_FILES[:1], {})
    assert loaded.config.fault_tolerance.health_check.unhealthy_threshold == 17
    said = "\n".join(loaded.warnings)
    assert "unhealthyThreshold is 17 in effect" in said and "a lease may end" not in said


def test_a_threshold_that_is_written_is_never_changed(tmp_path: Path) -> None:
    timers = "cluster: {consensus: {electionTimeout: 5s, heartbeatInterval: 1s}}"
    written = "faultTolerance: {healthCheck: {unhealthyThreshold: 4}}"
    with pytest.raises(ConfigError, match="raise unhealthyThreshold to 7"):
        load(tmp_path, ONE_NODE, INSECURE, timers, written)
    quick = load(tmp_path, ONE_NODE, INSECURE)
    assert node_settings(quick.config).health.unhealthy_threshold == 4 and not quick.warnings


@pytest.mark.parametrize(
    "paths", [SEED_FILES, [SEED], list(reversed(SEED_FILES))], ids=["files", "dir", "reversed"]
)
def test_the_published_files_load_exactly_as_printed(paths: list[Path]) -> None:
    config = load_config(paths, {}).config
    assert config.cluster.name == "miaoquai-prod"
    assert config.cluster.region == "asia-east-1"
    assert [(n.id, n.host, n.role, n.capacity) for n in config.cluster.nodes] == [
        ("node-01", "10.0.1.1", "coordinator", 20),
        ("node-02", "10.0.1.2", "worker", 10),
        ("node-03", "10.0.1.3", "worker", 10),
    ]
    assert config.cluster.consensus.election_timeout == 5_000
    assert config.cluster.consensus.heartbeat_interval == 1_000
    distribution = config.distribution
    assert (distribution.strategy, distribution.adaptive.threshold) == ("adaptive", 0.8)
    assert distribution.adaptive.rebalance_interval == 30_000
    assert distribution.task_queue.max_pending == 10_000
    assert distribution.task_queue.retry_policy.max_backoff == 300_000
    assert (distribution.routing.affinity, distribution.routing.locality) == (True, "zone")
    fault_tolerance = config.fault_tolerance
    assert fault_tolerance.health_check.interval == 10_000
    assert fault_tolerance.failover.failover_time == 30_000
    assert fault_tolerance.failover.task_migration.checkpoint_interval == 60_000
    assert fault_tolerance.circuit_breaker.recovery_timeout == 60_000


def test_the_published_files_give_a_node_its_settings(tmp_path: Path) -> None:
    (tmp_path / "tls.yaml").write_text("security: {tls: {dir: certs}}", encoding="utf-8")
    config = load_config([SEED, tmp_path / "tls.yaml"], {}).config
    settings = node_settings(config, "node-02")
    assert (settings.host, settings.grpc_port, settings.advertise) == ("10.0.1.2", 8080, "10.0.1.2:8080")
    assert settings.peers == {"node-01": "10.0.1.1:8080", "node-03": "10.0.1.3:8080"}
    assert settings.capacity == 10
    assert settings.retry.attempts_max == 3 and settings.retry.backoff_max_ms == 300_000
    health = settings.health
    assert health.down_after_ms == 30_000
    assert health.lease_ms == 30_000 - 5_000 - 10_000
    assert health.report_interval_ms == 1_000
    assert settings.tls is not None
    assert settings.tls.cert == tmp_path / "certs" / "node-02.crt"


def test_the_published_files_are_warned_about() -> None:
    loaded = load_config(SEED_FILES, {})
    told = "\n".join(loaded.warnings)
    assert "cluster.nodes[0].role: coordinator is a preference" in told
    assert "faultTolerance.failover.failoverTime: 30s cannot be kept" in told and "35s is reachable" in told
    assert "security.tls: missing: node-01, node-02, node-03" in told
    assert "faultTolerance.failover.strategy: active-passive, and no node is on standby" in told
    assert loaded.notes == ()
    assert loaded.not_yet == ()


def test_the_examples_in_the_repository_load() -> None:
    examples = ROOT / "cluster-config"
    alike = [*SEED_FILES, examples / "routing-rules.yaml"]
    assert load_config([examples], {}).config == load_config(alike, {}).config
    local = load_config([ROOT / "cluster-config" / "local"], {})
    assert local.warnings == () and local.notes == ()
    assert node_settings(local.config, "node-2").http_port == 7202


def test_a_later_file_overlays_an_earlier_one(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        ONE_NODE + "distribution: {taskQueue: {maxPending: 5, retryPolicy: {maxAttempts: 2}}}",
        "distribution: {task_queue: {max_pending: 7}}",
        "cluster: {nodes: [{id: b, host: 127.0.0.1}]}",
    ).config
    assert config.distribution.task_queue.max_pending == 7
    assert config.distribution.task_queue.retry_policy.max_attempts == 2
    assert config.node_ids == ("b",)  # a list is replaced as a whole


def test_camel_case_and_snake_case_are_equal(tmp_path: Path) -> None:
    camel = load(tmp_path, ONE_NODE + "faultTolerance: {healthCheck: {unhealthyThreshold: 5}}").config
    snake = load(tmp_path, ONE_NODE + "fault_tolerance: {health_check: {unhealthy_threshold: 5}}").config
    assert camel == snake and camel.fault_tolerance.health_check.unhealthy_threshold == 5


def test_labels_keep_their_spelling(tmp_path: Path) -> None:
    text = 'cluster: {nodes: [{id: a, host: localhost, labels: {gpuModel: "T4", rack_no: "7"}}]}'
    settings = node_settings(load(tmp_path, text, INSECURE).config, "a")
    assert settings.labels == {"gpuModel": "T4", "rack_no": "7"}


def test_a_key_without_a_value_is_a_key_not_given(tmp_path: Path) -> None:
    config = load(tmp_path, ONE_NODE + "observability: {otlp: null, metrics: ~}\nlisten:\n").config
    assert config.observability.metrics is True


def test_paths_are_taken_from_the_directory_of_their_file(tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    file = tmp_path / "conf" / "a.yaml"
    file.write_text(
        ONE_NODE + "storage: {dir: ../data}\nskills: {dirs: [one, /two]}\n" + INSECURE, encoding="utf-8"
    )
    settings = node_settings(load_config([file], {}).config, "a")
    assert settings.data_dir == tmp_path / "data" / "a"
    assert settings.skill_dirs == (tmp_path / "conf" / "one", Path("/two"))


def test_the_environment_overlays_the_files(tmp_path: Path) -> None:
    env = {"COTERIE_STORAGE_DIR": "/var/x", "COTERIE_LOG_LEVEL": "debug", "COTERIE_LISTEN_GRPC": ":9000"}
    settings = node_settings(load(tmp_path, ONE_NODE, INSECURE, env=env).config, "a")
    assert settings.data_dir == Path("/var/x/a")
    assert settings.log.level == "DEBUG"
    assert (settings.host, settings.grpc_port) == ("127.0.0.1", 9000)


def test_a_wrong_variable_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="environment variable COTERIE_LOG_LEVEL"):
        load(tmp_path, ONE_NODE, env={"COTERIE_LOG_LEVEL": "loud"})


@pytest.mark.parametrize(
    ("node", "rest", "port"),
    [
        ("port: 7000", "", 7000),
        ("", "cluster: {discovery: {nodes: ['a:7001']}}", 7001),
        ("", "cluster: {discovery: {nodes: ['127.0.0.1:7002']}}", 7002),
        ("", "listen: {grpc: ':7003'}", 7003),
        ("", "", 8080),
    ],
)
def test_a_port_comes_from_the_nearest_place(tmp_path: Path, node: str, rest: str, port: int) -> None:
    text = f"cluster: {{nodes: [{{id: a, host: 127.0.0.1, {node}}}]}}"
    settings = node_settings(load(tmp_path, text, INSECURE, rest).config, "a")
    assert (settings.grpc_port, settings.advertise) == (port, f"127.0.0.1:{port}")


def test_listening_elsewhere_than_where_the_node_is_reached(tmp_path: Path) -> None:
    text = "cluster: {nodes: [{id: a, host: a.example, port: 80}]}\nsecurity: {tls: {dir: t}}\n"
    config = load(tmp_path, text, "listen: {grpc: '0.0.0.0:8080', advertise: 'pub.example:443'}").config
    settings = node_settings(config, "a")
    assert (settings.host, settings.grpc_port) == ("0.0.0.0", 8080)
    assert settings.advertise == "pub.example:443"


def test_ipv6_addresses_are_bracketed(tmp_path: Path) -> None:
    text = "cluster: {nodes: [{id: a, host: '::1', port: 1}, {id: b, host: '::1', port: 2}]}"
    assert node_settings(load(tmp_path, text, INSECURE).config, "a").peers == {"b": "[::1]:2"}


def test_the_only_node_needs_no_name(tmp_path: Path) -> None:
    assert node_settings(load(tmp_path, ONE_NODE, INSECURE).config).node_id == "a"


def test_plain_text_on_loopback_wants_permission(tmp_path: Path) -> None:
    config = load(tmp_path, ONE_NODE).config
    with pytest.raises(ConfigError, match=r"security\.tls: missing, and plain text .* \(--insecure\)"):
        node_settings(config, "a")
    assert node_settings(config, "a", insecure=True).allow_insecure_loopback


@pytest.mark.parametrize("host", ["10.0.0.1", "db.example", "0.0.0.0", "::"])
def test_plain_text_beyond_loopback_is_refused_always(tmp_path: Path, host: str) -> None:
    config = load(tmp_path, ONE_NODE, INSECURE, f"listen: {{grpc: '[{host}]'}}" if ":" in host else "").config
    if ":" not in host:
        config = load(tmp_path, ONE_NODE, INSECURE, f"listen: {{grpc: '{host}'}}").config
    with pytest.raises(ConfigError, match=r"security\.tls: missing, and .* can be reached from outside"):
        node_settings(config, "a", insecure=True)


@pytest.mark.parametrize(
    ("node_id", "hint"), [("node-2", "did you mean node-1"), ("x", "configured: node-1"), ("", "which node")]
)
def test_an_unknown_node_is_refused_with_a_hint(node_id: str, hint: str) -> None:
    config = dev_config(3, tls=False)
    if node_id == "node-2":
        config = dev_config(1, tls=False)
    with pytest.raises(ConfigError, match=hint):
        node_settings(config, node_id)


def test_every_strategy_of_the_scheduler_can_be_configured(tmp_path: Path) -> None:
    for name in STRATEGIES:
        config = load(tmp_path, ONE_NODE, f"distribution: {{strategy: {name}}}").config
        assert node_settings(config, insecure=True).plan_policy.routing.strategy == name


def test_the_defaults_are_sound_and_silent(tmp_path: Path) -> None:
    loaded = load(tmp_path, ONE_NODE, INSECURE)
    assert loaded.warnings == () and loaded.notes == ()
    settings = node_settings(loaded.config)
    assert (settings.election_timeout_ms, settings.heartbeat_ms) == (500, 100)
    assert 0 < settings.health.lease_ms < settings.health.down_after_ms - settings.election_timeout_ms
    assert settings.policy.pending_tasks_max == 10_000


def test_constant_backoff_does_not_grow(tmp_path: Path) -> None:
    retry = "distribution: {taskQueue: {retryPolicy: {backoff: constant, initialBackoff: 3s}}}"
    settings = node_settings(load(tmp_path, ONE_NODE, INSECURE, retry).config)
    assert settings.retry.backoff_initial_ms == settings.retry.backoff_max_ms == 3_000


def test_the_keys_of_the_queue_reach_the_policy_and_the_retries(tmp_path: Path) -> None:
    keys = "ageing: 0s, tenantPendingPercent: 50, deadLettersMax: 5, crashNodesMax: 0, nodeLossesMax: 4"
    retry = "retryPolicy: {deadLetter: true, nonRetryable: [B, A]}"
    text = f"distribution: {{taskQueue: {{{keys}, {retry}}}}}"
    settings = node_settings(load(tmp_path, ONE_NODE, INSECURE, text).config, "a")
    made = settings.policy
    assert (made.ageing_ms, made.tenant_pending_percent, made.dead_letters_max) == (0, 50, 5)
    assert (made.crash_nodes_max, made.node_losses_max) == (0, 4)
    assert settings.retry.dead_letter and settings.retry.non_retryable == ("A", "B")


def test_a_code_that_no_error_can_have_is_refused(tmp_path: Path) -> None:
    text = "distribution: {taskQueue: {retryPolicy: {nonRetryable: [a b]}}}"
    with pytest.raises(ConfigError, match="nonRetryable"):
        load(tmp_path, ONE_NODE, text)


def test_a_development_cluster_detects_quickly(tmp_path: Path) -> None:
    settings = node_settings(dev_config(3, tmp_path, [7001, 7002, 7003], capacity=4), "node-2")
    assert (settings.election_timeout_ms, settings.heartbeat_ms) == (250, 60)
    assert (settings.health.down_after_ms, settings.health.lease_ms) == (1_200, 800)
    assert settings.members == {f"node-{n}": f"127.0.0.1:700{n}" for n in (1, 2, 3)}
    assert settings.tls is not None and settings.tls.key == tmp_path / "tls" / "node-2.key"


@pytest.mark.parametrize(("nodes", "ports"), [(0, []), (3, [1, 2]), (1, [1, 2])])
def test_a_development_cluster_needs_a_port_for_each_node(nodes: int, ports: list[int]) -> None:
    with pytest.raises(ValueError, match="one port each"):
        dev_config(nodes, ports=ports)


@given(
    nodes=st.integers(1, 7),
    tls=st.booleans(),
    capacity=st.integers(1, 1_024),
    first=st.integers(1, 60_000),
    with_http=st.booleans(),
)
def test_a_dumped_configuration_is_read_back(
    tmp_path_factory: pytest.TempPathFactory,
    nodes: int,
    tls: bool,
    capacity: int,
    first: int,
    with_http: bool,
) -> None:
    directory = tmp_path_factory.mktemp("dump")
    http = range(first + nodes, first + 2 * nodes) if with_http else ()
    config = dev_config(
        nodes,
        directory,
        range(first, first + nodes),
        tls=tls,
        capacity=capacity,
        http_ports=http,
        skill_dirs=[Path("s")],
    )
    assert load(directory, dump_config(config)).config == config


def test_the_published_configuration_is_read_back_from_its_dump(tmp_path: Path) -> None:
    config = load_config(SEED_FILES, {}).config
    assert load(tmp_path, dump_config(config)).config == config


def test_free_ports_differ() -> None:
    ports = free_ports(20)
    assert len(set(ports)) == 20 and all(port > 0 for port in ports)


def test_a_configuration_cannot_be_changed_afterwards(tmp_path: Path) -> None:
    config: ClusterConfig = load(tmp_path, ONE_NODE).config
    with pytest.raises(ValueError, match="frozen"):
        config.cluster.name = "other"


def test_the_defaults_and_the_loopback_timers_let_leases_outlive_an_election(tmp_path: Path) -> None:
    three = "cluster: {nodes: [{id: a, host: h1}, {id: b, host: h2}, {id: c, host: h3}]}\n"
    for text, warned in (
        (three, False),
        (dump_config(dev_config(3)), False),
        (three + "faultTolerance: {healthCheck: {interval: 1s, unhealthyThreshold: 2}}\n", True),
    ):
        warnings = load(tmp_path, text).warnings
        assert any("an election takes up to" in warning for warning in warnings) == warned, warnings
