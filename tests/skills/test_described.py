"""What `metadata.coterie` may say: numbers beyond all limits are faults like others."""

from __future__ import annotations

from typing import Any

import pytest

from coterie.skills.described import RATE_COUNT_MAX, described
from coterie.skills.validation import validate


@pytest.mark.parametrize(
    ("ours", "said"),
    [
        ({"resources": {"memory": "9" * 400}}, "is not a size"),
        ({"resources": {"memory": "9" * 20 + "T"}}, "is not in"),
        ({"rateLimit": "9" * 30 + "/minute"}, "is not a rate of at most"),
        ({"rateLimit": f"{RATE_COUNT_MAX + 1}/minute"}, "is not a rate of at most"),
        ({"rateLimit": "0/minute"}, "is not a rate"),
    ],
)
def test_a_number_beyond_all_limits_is_a_fault(ours: dict[str, Any], said: str) -> None:
    found, faults = described(ours, {})
    assert (found.memory_bytes, found.rate_count) == (0, 0)
    assert [(field, said in text) for field, text in faults] == [
        (f"metadata.coterie.{next(iter(ours))}", True)
    ]
    assert len(faults[0][1]) < 250


@pytest.mark.parametrize(
    ("ours", "said"),
    [
        ('{"handler": "run.py:run"}', "not said: attemptTimeout of the cluster counts"),
        ('{"handler": "run.py:run", "timeout": "0"}', "no end on a node's disk"),
        ('{"handler": "run.py:run", "timeout": 0}', "no end on a node's disk"),
        ('{"handler": "run.py:run", "timeout": "5s"}', ""),
    ],
)
def test_a_timeout_of_nothing_is_not_one_that_is_not_said(ours: str, said: str) -> None:
    text = f"---\nname: s\ndescription: Does it.\nmetadata:\n  coterie: '{ours}'\n---\n"
    files = {"SKILL.md": text.encode(), "run.py": b"def run(ctx, input): ..."}
    report = validate("s", files)
    advice = [text for field, text in report.advice if field == "metadata.coterie.timeout"]
    assert not report.faults
    assert len(advice) == bool(said) and all(said in text for text in advice)


def test_a_timeout_that_is_none_is_a_fault_and_no_advice() -> None:
    text = (
        "---\nname: s\ndescription: Does it.\nmetadata:\n  coterie: {handler: run.py, timeout: soon}\n---\n"
    )
    report = validate("s", {"SKILL.md": text.encode(), "run.py": b"def run(ctx, input): ..."})
    assert "metadata.coterie.timeout" in [field for field, _ in report.faults]
    assert "metadata.coterie.timeout" not in [field for field, _ in report.advice]
