"""A key that is accepted has an effect: each setting is read by some part of the node."""

from __future__ import annotations

import ast
import dataclasses
from pathlib import Path

import pytest

from coterie.node.config import (
    DiskSettings,
    HealthSettings,
    Limits,
    LlmSettings,
    LogSettings,
    MembershipSettings,
    NodeSettings,
    ProviderSettings,
    QueueSettings,
    RebalanceSettings,
)

NODE = Path(__file__).resolve().parents[2] / "node" / "coterie" / "node"
# Judged while settings are made or checked; kept for whoever wants to show them.
JUDGED_EARLIER = {"allow_insecure_loopback", "unhealthy_threshold"}


def attributes_read() -> set[str]:
    """Every attribute name that is read in the node, and the settings properties that read others."""
    rooms = {"config", "tls"}
    files = [path for path in NODE.rglob("*.py") if path.relative_to(NODE).parts[0] not in rooms]
    files.append(NODE / "config" / "settings.py")
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in files]
    return {node.attr for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


KINDS = [NodeSettings, HealthSettings, Limits, LogSettings, MembershipSettings, DiskSettings, QueueSettings]


@pytest.mark.parametrize("kind", [*KINDS, LlmSettings, ProviderSettings, RebalanceSettings])
def test_every_setting_is_read_somewhere(kind: type) -> None:
    fields = {field.name for field in dataclasses.fields(kind)}
    assert fields - attributes_read() - JUDGED_EARLIER == set()
