"""The files for containers: what they hand to a node is what it takes, and names and ports fit together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from coterie.node.config import ConfigError, load_config, node_settings

DEPLOY = Path(__file__).resolve().parents[2] / "cluster-config" / "deploy"
GRPC, HTTP = 8080, 9090


def kinds() -> dict[tuple[str, str], dict[str, Any]]:
    """The objects of the Kubernetes file by kind and name."""
    documents = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text(encoding="utf-8"))
    return {(one["kind"], one["metadata"]["name"]): one for one in documents}


def pod() -> dict[str, Any]:
    found: dict[str, Any] = kinds()["StatefulSet", "coterie"]["spec"]["template"]["spec"]
    return found


def test_each_pod_starts_with_the_file_it_is_given(tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text(kinds()["ConfigMap", "coterie"]["data"]["cluster.yaml"], encoding="utf-8")
    config = load_config([file], {}).config
    stateful = kinds()["StatefulSet", "coterie"]
    service, space = stateful["spec"]["serviceName"], stateful["metadata"]["namespace"]
    names = [f"coterie-{number}" for number in range(stateful["spec"]["replicas"])]
    for name in names:
        settings = node_settings(config, name)
        assert settings.founders == tuple(names) and not settings.join
        assert settings.advertise == f"{name}.{service}.{space}.svc.cluster.local:{GRPC}"
    late = node_settings(config, f"coterie-{len(names)}")
    assert late.join and late.advertise == f"{late.node_id}.{service}.{space}.svc.cluster.local:{GRPC}"


def test_ports_probes_and_places_are_those_of_the_node(tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text(kinds()["ConfigMap", "coterie"]["data"]["cluster.yaml"], encoding="utf-8")
    settings = node_settings(load_config([file], {}).config, "coterie-0")
    container = pod()["containers"][0]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"grpc": GRPC, "http": HTTP} and settings.http_port == HTTP
    assert [container[probe]["httpGet"]["path"] for probe in ("readinessProbe", "livenessProbe")] == [
        "/readyz",
        "/healthz",
    ]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert settings.data_dir == Path(mounts["data"]) / "coterie-0"
    assert settings.tls is not None and settings.tls.key == Path(mounts["tls"]) / "coterie-0.key"
    stateful = kinds()["StatefulSet", "coterie"]["spec"]
    claims = [claim["metadata"]["name"] for claim in stateful["volumeClaimTemplates"]]
    assert set(mounts) == {volume["name"] for volume in pod()["volumes"]} | set(claims)


def test_pods_find_each_other_before_they_are_ready_and_a_majority_stays() -> None:
    found = kinds()
    headless = found["Service", "coterie"]["spec"]
    assert headless["clusterIP"] == "None" and headless["publishNotReadyAddresses"]
    assert found["StatefulSet", "coterie"]["spec"]["podManagementPolicy"] == "Parallel"
    assert found["PodDisruptionBudget", "coterie"]["spec"]["maxUnavailable"] == 1
    labels = found["StatefulSet", "coterie"]["spec"]["template"]["metadata"]["labels"]
    for kind, name in [("Service", "coterie"), ("Service", "coterie-clients")]:
        assert found[kind, name]["spec"]["selector"] == labels
        assert [port["port"] for port in found[kind, name]["spec"]["ports"]] == [GRPC]


@pytest.mark.parametrize("number", [1, 2, 3])
def test_each_container_is_a_node_of_its_file_with_a_volume_of_its_own(number: int) -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    node_id = f"coterie-{number}"
    settings = node_settings(load_config([DEPLOY / "cluster.yaml"], {}).config, node_id)
    service = compose["services"][node_id]
    assert settings.advertise == f"{node_id}:{GRPC}" and len(compose["services"]) == 3
    assert service["command"] == ["--id", node_id]
    assert service["ports"] == [f"808{number}:{GRPC}"]
    places = [text.split(":")[:2] for text in service["volumes"]]
    assert [node_id, str(settings.data_dir.parent)] in places and node_id in compose["volumes"]
    assert settings.tls is not None
    assert {str(settings.tls.ca), str(settings.tls.cert), str(settings.tls.key)} < {
        place for _, place in places
    }


def test_the_image_runs_what_the_containers_expect() -> None:
    lines = (DEPLOY / "Dockerfile").read_text(encoding="utf-8").splitlines()
    entry = next(line for line in lines if line.startswith("ENTRYPOINT"))
    assert yaml.safe_load(entry.removeprefix("ENTRYPOINT")) == [
        "coterie",
        "node",
        "start",
        "--config",
        "/etc/coterie/cluster.yaml",
    ]


def test_metrics_leave_the_machine_only_where_the_file_says_so(tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    text = kinds()["ConfigMap", "coterie"]["data"]["cluster.yaml"]
    assert ", allowPlainMetrics: true" in text
    file.write_text(text.replace(", allowPlainMetrics: true", ""), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"listen\.http: .*security\.allowPlainMetrics: true"):
        load_config([file], {})
