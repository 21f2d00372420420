"""Commands in comments of cluster-config/deploy: shells take them, and they make what the files use."""

from __future__ import annotations

import configparser
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from cryptography import x509

from coterie.node.cli.main import cli
from coterie.node.config import load_config, node_settings
from coterie.node.start import EXIT_BAD_CONFIG, EXIT_REFUSED

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "cluster-config" / "deploy"
FILES = ("Dockerfile", "cluster.yaml", "compose.yaml", "kubernetes.yaml", "coterie.service")
TOOLS = ("coterie", "docker", "kubectl", "pip", "sudo")
SAID = "".join(f"{tool}() {{ printf '%s\\037' {tool} \"$@\"; printf '\\036'; }}\n" for tool in TOOLS)


def script(name: str) -> str:
    """What the comment at the head of a file tells to type."""
    head = re.match(r"(?:#.*\n)*", (DEPLOY / name).read_text(encoding="utf-8"))
    assert head is not None
    return "".join(line[4:] + "\n" for line in head[0].splitlines() if line.startswith("#   "))


def calls(name: str) -> Iterator[list[str]]:
    """The words of each command, as a shell passes them on; no command is run."""
    done = subprocess.run(
        ["sh", "-euc", SAID + script(name)], cwd=DEPLOY, capture_output=True, text=True, check=True
    )
    return (call.split("\037")[:-1] for call in done.stdout.split("\036")[:-1])


def coterie(*names: str) -> list[list[str]]:
    found = [call[1:] for name in names for call in calls(name) if call[0] == "coterie"]
    assert found
    return found


def certificates(directory: Path, *names: str) -> dict[str, set[str]]:
    """What `tls init` makes when it is called as the files tell: the names that a client finds, by file."""
    for call in coterie(*names):
        if call[:2] == ["tls", "init"]:
            words = [str(directory) if word == "tls" else word for word in call[2:]]
            words = [str(ROOT / word) if word.startswith("cluster-config") else word for word in words]
            done = CliRunner().invoke(cli, ["tls", "init", *words], catch_exceptions=False)
            assert done.exit_code == 0, done.output
    return {path.stem: names_of(path) for path in directory.glob("coterie-*.crt")}


def names_of(path: Path) -> set[str]:
    cert = x509.load_pem_x509_certificate(path.read_bytes())
    found = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    addresses = found.get_values_for_type(x509.IPAddress)
    return {*found.get_values_for_type(x509.DNSName), *map(str, addresses)}


def host(address: str) -> str:
    return address.rpartition(":")[0]


@pytest.mark.parametrize("name", FILES)
def test_a_shell_takes_what_the_head_of_a_file_tells(name: str) -> None:
    if script(name):
        assert all(call[0] in TOOLS for call in calls(name))


def test_certificates_for_containers_bear_every_name_that_is_called(tmp_path: Path) -> None:
    made = certificates(tmp_path, "cluster.yaml")
    called = [call[call.index("--endpoint") + 1] for call in coterie("compose.yaml") if "--endpoint" in call]
    config = load_config([DEPLOY / "cluster.yaml"], {}).config
    assert called and set(made) == set(config.node_ids)
    for node, names in made.items():
        assert {host(node_settings(config, node).advertise), *map(host, called)} <= names


def test_both_heads_make_the_same_certificates() -> None:
    inits = [call for name in ("cluster.yaml", "compose.yaml") for call in coterie(name) if call[0] == "tls"]
    assert len(inits) == 2 and inits[0] == inits[1]


def test_a_container_holds_its_own_key_and_no_other() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    for name, service in compose["services"].items():
        files = [text.split(":")[0] for text in service["volumes"] if text.startswith(".")]
        assert {Path(file).name for file in files} == {"cluster.yaml", "ca.crt", f"{name}.crt", f"{name}.key"}


def test_certificates_for_pods_bear_the_names_under_which_clients_come(tmp_path: Path) -> None:
    made = certificates(tmp_path / "tls", "kubernetes.yaml")
    found = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text(encoding="utf-8")))
    file = tmp_path / "cluster.yaml"
    file.write_text(of_kind(found, "ConfigMap")[0]["data"]["cluster.yaml"], encoding="utf-8")
    config = load_config([file], {}).config
    services = {
        f"{one['metadata']['name']}.{one['metadata']['namespace']}.svc.cluster.local"
        for one in of_kind(found, "Service")
    }
    assert set(made) == set(config.node_ids) and len(services) == 2
    for node, names in made.items():
        assert {host(node_settings(config, node).advertise), *services} <= names


def of_kind(found: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [one for one in found if one["kind"] == kind]


def test_the_secret_of_the_pods_has_neither_the_authority_nor_a_user(tmp_path: Path) -> None:
    (line,) = [line for line in script("kubernetes.yaml").splitlines() if "create secret" in line]
    (tmp_path / "tls").mkdir()
    for name in ("ca.crt", "ca.key", "coterie-0.crt", "coterie-0.key", "user.admin.crt", "user.admin.key"):
        (tmp_path / "tls" / name).touch()
    done = subprocess.run(
        ["sh", "-euc", SAID + line], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert set(re.findall(r"--from-file=tls/([\w.-]+)", done.stdout)) == {
        "ca.crt",
        "coterie-0.crt",
        "coterie-0.key",
    }


def test_a_pod_that_reads_its_state_is_left_alone_until_it_listens() -> None:
    found = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text(encoding="utf-8")))
    container = of_kind(found, "StatefulSet")[0]["spec"]["template"]["spec"]["containers"][0]
    probe = container["startupProbe"]
    assert probe["httpGet"] == container["livenessProbe"]["httpGet"]
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 20 * 60


def test_the_keys_belong_to_the_user_of_the_image() -> None:
    (uid,) = re.findall(r"--uid (\d+)", (DEPLOY / "Dockerfile").read_text(encoding="utf-8"))
    assert f"sudo chown {uid} tls/coterie-*.key\n" in script("compose.yaml")
    pods = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text(encoding="utf-8")))
    template = of_kind(pods, "StatefulSet")[0]["spec"]["template"]["spec"]
    assert template["securityContext"]["runAsUser"] == int(uid)


def test_the_unit_stops_the_node_alone_and_starts_what_may_get_better() -> None:
    unit = configparser.ConfigParser(interpolation=None, strict=True)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(DEPLOY / "coterie.service", encoding="utf-8")
    service = unit["Service"]
    assert service["KillMode"] == "mixed" and service["Restart"] == "on-failure"
    assert service["RestartPreventExitStatus"].split() == [str(EXIT_BAD_CONFIG), str(EXIT_REFUSED)]
    words = service["ExecStart"].split()
    assert words[1:3] == ["node", "start"] and words[-2:] == ["--id", "%H"]
    assert service["StateDirectory"] == "coterie", "/var/lib/coterie, as in README.md"
    assert "storage: {dir: /var/lib/coterie}" in (ROOT / "README.md").read_text(encoding="utf-8")
