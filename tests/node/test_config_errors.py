"""What is wrong with a configuration is said all at once: path, value, reason, file and line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coterie.node.config import ConfigError, LoadedConfig, load_config, node_settings
from coterie.node.config.yaml_text import Value, parse_yaml

NODES = "cluster: {nodes: [{id: a, host: 127.0.0.1}]}\n"


def problems(directory: Path, *texts: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load(directory, *texts)
    return caught.value.problems


def load(directory: Path, *texts: str) -> LoadedConfig:
    for number, text in enumerate(texts):
        (directory / f"{number}.yaml").write_text(text, encoding="utf-8")
    return load_config([directory], {})


def two_nodes(first: str, second: str) -> str:
    return f"cluster: {{nodes: [{{host: 127.0.0.1, {first}}}, {{host: 127.0.0.1, {second}}}]}}"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        # keys
        (
            "cluster: {nodes: [{id: b, host: h, capcity: 3}]}",
            "nodes[0].capcity: unknown key; did you mean capacity?",
        ),
        ("securty: {}", "securty: unknown key; did you mean security?"),
        (
            "cluster: {electionTimeout: 5s}",
            "cluster.electionTimeout: unknown key; did you mean cluster.consensus.electionTimeout?",
        ),
        ("listen: {zzz: 1}", "listen.zzz: unknown key; known here: advertise, grpc, http"),
        (
            "distribution: {taskQueue: {maxPending: 1, max_pending: 1}}",
            "distribution.taskQueue.max_pending: given twice, as maxPending in line 1 too",
        ),
        ("distribution: {strategy: hash}\ndistribution: {}", "1.yaml:2: distribution: given twice"),
        # kinds of values
        ("cluster: 5", "cluster: 5: expected keys and values"),
        ("cluster: {nodes: {}}", "cluster.nodes: a mapping: expected a list"),
        ("cluster: {nodes: [5]}", "cluster.nodes[0]: 5: expected keys and values"),
        ("cluster: {nodes: [{host: h}]}", "cluster.nodes[0].id: is missing"),
        ("cluster: {nodes: [{id: b}]}", "cluster.nodes[0].host: is missing"),
        ("observability: {metrics: yes}", "observability.metrics: 'yes': expected true or false"),
        ("cluster: {nodes: [{id: b, host: h, capacity: '3'}]}", "capacity: '3': expected a whole number"),
        ("cluster: {nodes: [{id: b, host: h, capacity: 0}]}", "capacity: 0: must be at least 1"),
        ("cluster: {nodes: [{id: b, host: h, capacity: -4}]}", "capacity: -4: must be at least 1"),
        ("cluster: {nodes: [{id: b, host: h, port: 70000}]}", "port: 70000: must be at most 65535"),
        ("cluster: {nodes: [{id: b, host: h, labels: {gpu: 1}}]}", "labels.gpu: 1: expected text"),
        ("cluster: {nodes: [{id: a_b, host: h}]}", "nodes[0].id: 'a_b' is not a node id"),
        ("cluster: {nodes: [{id: ca, host: h}]}", "nodes[0].id: 'ca' is not a node id"),
        ("cluster: {nodes: [{id: ../x, host: h}]}", "nodes[0].id: '../x' is not a node id"),
        ("cluster: {nodes: [{id: b, host: 0.0.0.0}]}", "host: '0.0.0.0' cannot be dialled"),
        ("cluster: {nodes: [{id: b, host: 10.0.0.300}]}", "host: '10.0.0.300' is not an IP address"),
        ("cluster: {nodes: [{id: b, host: 'a b'}]}", "host: 'a b' is not a host name"),
        ("cluster: {nodes: [{id: b, host: h, role: boss}]}", "role: 'boss' is not known; write one of"),
        ("cluster: {name: 'a b'}", "cluster.name: 'a b' is not a name"),
        ("listen: {grpc: 'h:0'}", "listen.grpc: '0' is not a port"),
        ("listen: {grpc: '[::1'}", "listen.grpc: '[::1' is not an address"),
        ("storage: {dir: 5}", "storage.dir: 5: expected a path"),
        ("observability: {log: {level: loud}}", "observability.log.level: 'LOUD' is not known"),
        # units
        ("cluster: {consensus: {electionTimeout: -5s}}", "consensus.electionTimeout: '-5s' is negative"),
        ("cluster: {consensus: {electionTimeout: 5 years}}", "'5 years' is not a duration"),
        ("cluster: {consensus: {electionTimeout: 1ms}}", "electionTimeout: 1ms is too little: at least 50ms"),
        ("cluster: {consensus: {electionTimeout: 1h}}", "electionTimeout: 1h is too much: at most 5m"),
        ("distribution: {adaptive: {threshold: 80}}", "threshold: 80 is more than the whole"),
        ("limits: {blobMax: 5 apples}", "limits.blobMax: '5 apples' is not a size"),
        # choices
        ("distribution: {strategy: adaptve}", "strategy: 'adaptve' is not known; did you mean adaptive?"),
        ("distribution: {strategy: luck}", "strategy: 'luck' is not known; write one of round-robin, hash"),
        ("cluster: {consensus: {protocol: paxos}}", "protocol: paxos: Paxos is not implemented"),
        ("cluster: {consensus: {protocol: custom}}", "protocol: custom: there is no seam"),
        ("cluster: {consensus: {protocol: rft}}", "protocol: 'rft' is not known; write raft"),
        ("cluster: {consensus: {fsync: false}}", "fsync: false: an acknowledged task is on the disks"),
        ("distribution: {taskQueue: {type: fifo}}", "type: fifo: the queue is ordered by priority"),
        (
            "distribution: {routing: {affinity: true, antiAffinity: true}}",
            "antiAffinity: true, and affinity too",
        ),
        (
            "faultTolerance: {failover: {strategy: hot-hot}}",
            "strategy: 'hot-hot' is not known; write active-passive or active-active",
        ),
        (
            two_nodes("id: a, port: 1", "id: b, port: 2, standby: true")
            + "\nfaultTolerance: {failover: {strategy: active-active}}",
            "nodes[1].standby: true, and faultTolerance.failover.strategy is active-active",
        ),
        (
            "cluster: {nodes: [{id: a, host: h, standby: true}]}",
            "nodes[0].standby: true for every node: none would take work",
        ),
        (
            "faultTolerance: {failover: {taskMigration: {enabled: false}}}",
            "enabled: false: tasks of a lost node",
        ),
        # what is not built
        ("agents: {dir: x}", "agents: agents live in the cluster"),
        ("gateway: {channels: {}}", "gateway: chat channels and web sessions are not supported"),
        ("limits: [{match: {tenant: x}}]", "limits: quotas per tenant are not supported"),
        ("multi_agent: {agents: []}", "multi_agent.agents: agents live in the cluster"),
        ("multiAgent: {messageBus: {type: redis}}", "multiAgent.messageBus: there is no message bus"),
        ("multi_agent: {monitoring: {enabled: false}}", "monitoring.enabled: false: without health checks"),
        ("multi_agent: {monitoring: {alert_on_failure: false}}", "false: a node that is given up is always"),
        (
            "multi_agent: {coordinator: {enabled: false}}",
            "enabled: false: a cluster always has a coordinator",
        ),
        (
            "multi_agent: {state_sync: {enabled: false}}",
            "enabled: false: every node's state follows the Raft",
        ),
        ("multi_agent: {state_sync: {conflict_resolution: crdt}}", "crdt: one log puts all changes in order"),
        ("multi_agent: {state_sync: {conflict_resolution: manual}}", "manual: one log puts all changes"),
        (
            "multi_agent: {state_sync: {conflict_resolution: luck}}",
            "'luck' is not known; write serial or lww",
        ),
        (
            "multi_agent: {coordinator: {task_timeout: 5}}\ndistribution: {taskQueue: {attemptTimeout: 6s}}",
            "task_timeout: means 5000 for distribution.task_queue.attempt_timeout, which says",
        ),
        ("messageBus: {type: redis}", "messageBus: there is no message bus beside the cluster"),
        ("listen: {raft: ':1'}", "listen.raft: the port of Raft frames is each node's own"),
        ("security: {tokens: {file: x}}", "security.tokens: tokens live in the cluster"),
        ("storage: {historyRetention: 0s}", "storage.historyRetention:"),
        ("storage: {unusedBlobRetention: 1s}", "storage.unusedBlobRetention:"),
        ("skills: {insideNetworks: [10.0.0.0/99]}", "is not a network; write it as 10.0.0.0/8"),
        ("skills: {sandbox: none}", "skills.sandbox: none: skills never run in the node's own process"),
        ("observability: {otlp: x}", "observability.otlp: OpenTelemetry is not supported"),
        # across keys
        ("cluster: {nodes: []}", "cluster.nodes: no node is listed"),
        (two_nodes("id: a, port: 1", "id: A, port: 2"), "cluster.nodes[1].id: A: another node has this id"),
        (two_nodes("id: a", "id: b"), "cluster.nodes[1]: 127.0.0.1:8080 is taken by a"),
        (
            two_nodes("id: a, port: 1, httpPort: 2", "id: b, port: 2"),
            "cluster.nodes[1]: 127.0.0.1:2 is taken by a",
        ),
        (two_nodes("id: a, port: 1, clientsPort: 1", "id: b"), "cluster.nodes[0]: 127.0.0.1:1 is taken by a"),
        (two_nodes("id: a, port: 1, httpPort: 1", "id: b"), "cluster.nodes[0]: 127.0.0.1:1 is taken by a"),
        (
            two_nodes("id: a, port: 1", "id: b, port: 2") + "\nlisten: {grpc: ':3'}",
            "listen.grpc: several nodes",
        ),
        (
            two_nodes("id: a, port: 1", "id: b, port: 2") + "\nlisten: {http: ':3'}",
            "each node its own httpPort",
        ),
        ("cluster: {discovery: {nodes: ['aa:1']}}", "discovery.nodes[0]: aa:1: no node has this id or host"),
        ("cluster: {discovery: {nodes: ['a:1', 'a:1']}}", "discovery.nodes[1]: a is listed twice"),
        (
            "cluster: {nodes: [{id: a, host: h, port: 2}], discovery: {nodes: ['a:1']}}",
            "discovery.nodes[0]: a:1 differs from port 2 of that node",
        ),
        (
            "cluster: {consensus: {heartbeatInterval: 400ms, electionTimeout: 1200ms}}",
            "heartbeatInterval: 400ms is not less than a third of electionTimeout (1200ms)",
        ),
        (
            "faultTolerance: {healthCheck: {interval: 500ms, unhealthyThreshold: 2}}",
            "is 0 ms and must be at least 100 ms; raise unhealthyThreshold to 3",
        ),
        (
            "distribution: {taskQueue: {retryPolicy: {initialBackoff: 10m}}}",
            "initialBackoff: 10m is more than",
        ),
        ("limits: {blobMax: 1MiB, resultMax: 2MiB}", "limits.resultMax: 2MiB is more than blobMax (1MiB)"),
        ("limits: {blobQuota: 2MiB}", "limits.blobQuota: 2MiB has no room for one blob of 64MiB"),
        ("limits: {taskBytesMax: 49MiB}", "limits.taskBytesMax: 49MiB is too much: at most 48MiB"),
        ("limits: {liveBytesMax: 2MiB}", "limits.liveBytesMax: 2MiB is less than taskBytesMax"),
        (
            "limits: {payloadInlineMax: 2KiB}\nstorage: {maxInlinePayload: 3KiB}",
            "storage.maxInlinePayload: differs from limits.payloadInlineMax",
        ),
        ("listen: {http: '0.0.0.0:80'}", "listen.http: 0.0.0.0:80: metrics and health are plain HTTP"),
        ("security: {tls: {cert: x}}", "security.tls: give dir (made by `coterie tls init`), or all of"),
        ("security: {tls: {dir: d, ca: x}}", "security.tls: give either dir or the files"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, text: str, problem: str) -> None:
    base = "" if text.startswith("cluster: {nodes") else NODES
    found = problems(tmp_path, *([base] if base else []), text)
    assert len(found) == 1, found
    assert problem in found[0]
    assert ".yaml:" in found[0], "file and line"


def test_all_mistakes_are_reported_at_once(tmp_path: Path) -> None:
    text = """
cluster:
  nodes:
    - {id: a, host: 127.0.0.1, capcity: 3, capacity: 0}
    - {id: a, host: 127.0.0.1, port: 99999}
  consensus: {protocol: paxos, electionTimeout: -5s}
distribution: {strategy: magic}
llm: {default: x}
limits: {blobQuota: 1MiB}
"""
    found = "\n".join(problems(tmp_path, text))
    for place in (
        "cluster.nodes[0].capcity",
        "cluster.nodes[0].capacity",
        "cluster.nodes[1].port",
        "cluster.consensus.protocol",
        "cluster.consensus.electionTimeout",
        "distribution.strategy",
        "llm.default",
        "limits.blobQuota",  # a check across keys speaks although other keys are wrong
    ):
        assert f"{place}: " in found
    assert "heartbeatInterval" not in found  # nothing follows from a value that is wrong itself


def test_the_place_is_file_and_line_of_the_last_word(tmp_path: Path) -> None:
    text = "distribution:\n  taskQueue:\n    maxPending: 0\n"
    (only,) = problems(tmp_path, NODES, "# a comment\n" + text, text)
    assert only == f"distribution.taskQueue.maxPending: 0: must be at least 1 ({tmp_path}/2.yaml:3)"


def test_a_missing_file_and_an_empty_directory_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config([tmp_path / "none.yaml", tmp_path], {})
    text = str(caught.value)
    assert "none.yaml: cannot be read: No such file" in text and "no *.yaml file in this directory" in text
    with pytest.raises(ConfigError, match="no configuration file given"):
        load_config([], {})


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\xff\xfe\x00", "not UTF-8 text"),
        (b"a: [", "not valid YAML"),
        (b"a: b: c", "not valid YAML"),
        (b"a: 1\n---\nb: 2", "not valid YAML"),
        (b"- 1", "expected keys and values at the top"),
        (b"just text", "expected keys and values at the top"),
        (b"a: &x [*x]", "levels"),
        (b"? [a]\n: 1", "keys are plain text"),
        (b"a: &x {b: 1}\nc: {<<: *x}", "merge keys"),
        (b"a: !!python/object:os.system x", "the tag .* is not read here"),
        (b"a: !!int x", "does not fit its tag"),
        (b"a: 1" + b"0" * 6000, "does not fit its tag"),
        (b"#" * 2_000_000, "larger than"),
    ],
)
def test_a_file_that_is_not_configuration_is_refused(tmp_path: Path, data: bytes, reason: str) -> None:
    file = tmp_path / "a.yaml"
    file.write_bytes(data)
    with pytest.raises(ConfigError, match=reason):
        load_config([file], {})


def test_a_bomb_of_aliases_is_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    found = problems(tmp_path, "\n".join(lines))
    assert sum("more than 100000 values" in line for line in found) == len(found) == 1


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("NO", "NO"),
        ("on", "on"),
        ("off", "off"),
        ("yes", "yes"),
        ("12:30:45", "12:30:45"),
        ("2026-05-11", "2026-05-11"),
        ("010", "010"),
        ("0x1F", "0x1F"),
        ("1_000", "1_000"),
        ("'5'", "5"),
        ("5", 5),
        ("-5", -5),
        ("0.8", 0.8),
        ("1e3", 1000.0),
        ("true", True),
        ("False", False),
        ("~", None),
        ("null", None),
        ("", None),
        (".inf", ".inf"),
    ],
)
def test_the_traps_of_yaml_are_gone(text: str, value: object) -> None:
    found: list[str] = []
    tree = parse_yaml(f"key: {text}\n", "x.yaml", found)
    assert tree is not None and found == []
    assert isinstance(tree.data, list)
    (entry,) = tree.data
    assert not isinstance(entry, Value)
    assert entry.value.data == value and type(entry.value.data) is type(value)


@given(st.text(max_size=300) | st.binary(max_size=300).map(lambda raw: raw.decode("latin-1")))
def test_any_text_is_read_or_refused(text: str) -> None:
    found: list[str] = []
    tree = parse_yaml(text, "x.yaml", found)
    assert tree is not None or found


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=10,
    ),
    st.sampled_from(
        ["cluster", "distribution", "faultTolerance", "listen", "storage", "security", "limits", "skills"]
    ),
)
def test_any_value_of_a_section_is_taken_or_refused(
    tmp_path_factory: pytest.TempPathFactory, value: object, section: str
) -> None:
    import json

    directory = tmp_path_factory.mktemp("any")
    text = json.dumps({section: value}, ensure_ascii=False)
    try:
        load(directory, NODES, text)
    except ConfigError as error:
        assert error.problems and all(error.problems)


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (1, ()),
        (2, ("two voters survive the loss of none",)),
        (3, ()),
        (4, ("4 voters survive the loss of 1, as 3 would",)),
        (7, ()),
        (8, ()),  # seven vote
        (9, ()),
    ],
)
def test_the_number_of_nodes_is_thought_about(tmp_path: Path, count: int, words: tuple[str, ...]) -> None:
    nodes = ", ".join(f"{{id: n{n}, host: 127.0.0.1, port: {7000 + n}}}" for n in range(count))
    text = f"cluster: {{nodes: [{nodes}]}}\nsecurity: {{allowInsecureLoopback: true}}"
    warnings = load(tmp_path, text).warnings
    assert len(warnings) == len(words)
    for warning, word in zip(warnings, words, strict=True):
        assert word in warning


@pytest.mark.parametrize(("most", "word"), [(2, "two voters"), (4, "4 voters"), (3, "")])
def test_the_number_of_voters_is_thought_about(tmp_path: Path, most: int, word: str) -> None:
    nodes = ", ".join(f"{{id: n{n}, host: 127.0.0.1, port: {7000 + n}}}" for n in range(5))
    text = f"""
        cluster: {{nodes: [{nodes}], membership: {{maxVoters: {most}}}}}
        security: {{allowInsecureLoopback: true}}
    """
    warnings = load(tmp_path, text).warnings
    assert [word in warning and "maxVoters" in warning for warning in warnings] == [True] * bool(word)


JOINERS = """
    cluster:
      nodes:
        - {id: n1, host: 127.0.0.1, port: 7001}
        - {id: n2, host: 127.0.0.1, port: 7002}
        - {id: n4, host: 127.0.0.1, port: 7004, join: true}
      membership: {maxVoters: 3, replaceVoterAfter: 90s}
    security: {allowInsecureLoopback: true}
"""


def test_a_node_that_joins_is_no_founder(tmp_path: Path) -> None:
    config = load(tmp_path, JOINERS).config
    old, new = node_settings(config, "n1"), node_settings(config, "n4")
    assert (old.founders, old.join) == (("n1", "n2"), False)
    assert (new.founders, new.join, sorted(new.peers)) == (("n1", "n2"), True, ["n1", "n2"])
    told = node_settings(config, "n2", join=True)
    assert (told.founders, told.join) == (("n1",), True)
    assert (new.membership.max_voters, new.membership.replace_voter_after_ms) == (3, 90_000)


def test_somebody_must_be_there_to_be_joined(tmp_path: Path) -> None:
    lone = "cluster: {nodes: [{id: n4, host: 127.0.0.1, join: true}]}"
    with pytest.raises(ConfigError, match="every node is to join"):
        load(tmp_path, lone)
    config = load(tmp_path, lone.replace(", join: true", "")).config
    with pytest.raises(ConfigError, match="names no node of the cluster"):
        node_settings(config, "n4", insecure=True, join=True)
