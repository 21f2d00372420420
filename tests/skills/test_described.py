"""What `metadata.coterie` may say: numbers beyond all limits are faults like others."""

from __future__ import annotations

from typing import Any

import pytest

from coterie.skills.described import RATE_COUNT_MAX, described


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
