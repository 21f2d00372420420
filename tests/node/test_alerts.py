"""The rules for Prometheus: they can be read, they name what nodes export, each alert has its runbook."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
RULES = ROOT / "cluster-config" / "monitoring" / "alerts.yaml"
_WORDS = {"and", "or", "unless", "by", "without", "on", "ignoring", "for", "bool", "offset"}
_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_DURATION = re.compile(r"\d+[smhd]")


def rules() -> list[dict[str, Any]]:
    document = yaml.safe_load(RULES.read_text("utf-8"))
    return [rule for group in document["groups"] for rule in group["rules"]]


def metrics_in(expression: str) -> Iterator[str]:
    """The names of metrics: neither functions nor keywords nor labels."""
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]", "", expression)
    bare = re.sub(r"\b(by|without|on|ignoring)\s*\([^)]*\)", "", bare)
    for found in _NAME.finditer(bare):
        is_call = bare[found.end() :].lstrip().startswith("(")
        if not is_call and found.group() not in _WORDS:
            yield found.group()


def every_metric() -> set[str]:
    """All that the rules look at, but what Prometheus says itself."""
    return {name for rule in rules() for name in metrics_in(rule["expr"])} - {"up"}


def test_the_names_are_told_apart() -> None:
    text = 'max by (budget) (used{job="x"}) >= 0.8 and sum(rate(done_total[15m])) > 2 * other'
    assert list(metrics_in(text)) == ["used", "done_total", "other"]
    assert "raft_has_quorum" in every_metric()


def test_the_file_is_what_prometheus_reads() -> None:
    document = yaml.safe_load(RULES.read_text("utf-8"))
    assert set(document) == {"groups"}
    assert all(set(group) == {"name", "rules"} for group in document["groups"])
    names = [rule["alert"] for rule in rules()]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_every_alert_is_whole_and_says_what_to_do(rule: dict[str, Any]) -> None:
    assert set(rule) - {"for"} == {"alert", "expr", "labels", "annotations"}
    assert "for" not in rule or _DURATION.fullmatch(rule["for"])
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert set(rule["annotations"]) == {"summary", "runbook"}
    for left, right in ("()", "{}", "[]"):
        assert rule["expr"].count(left) == rule["expr"].count(right)
    assert list(metrics_in(rule["expr"]))
    page, _, anchor = rule["annotations"]["runbook"].partition("#")
    text = (ROOT / page).read_text("utf-8")
    rows = [line for line in text.splitlines() if f'<a id="{anchor}"></a>`{rule["alert"]}`' in line]
    assert len(rows) == 1, f"{page} has no row for {rule['alert']}"
    assert all(cell.strip() for cell in rows[0].strip("|").split("|"))


def test_no_runbook_is_about_an_alert_that_does_not_exist() -> None:
    text = (ROOT / "docs" / "operations.md").read_text("utf-8")
    described = re.findall(r"</a>`(\w+)` \|", text)
    assert sorted(described) == sorted(rule["alert"] for rule in rules())
