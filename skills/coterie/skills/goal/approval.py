"""What a person is shown of a plan before it runs: the workflow and the values it is given.

The approval is bound to all of it by its hash. What is too long to be shown stands there with its beginning
and its SHA-256, so that it is bound as well."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from coterie.skills import NonRetryable
from coterie.skills.decisions import CALL_BYTES_MAX

LENGTHS = (CALL_BYTES_MAX, 16_000, 4_000, 1_000, 250)  # of one value, in characters: as long as all fits


class PlanTooLarge(NonRetryable):
    """No person can be shown the plan."""

    code = "TOO_LARGE"


def to_be_approved(goal: str, draft: Mapping[str, Any]) -> dict[str, Any]:
    """At most CALL_BYTES_MAX bytes as JSON. Raises PlanTooLarge when the workflow alone takes more."""
    inputs = {name: value for name, value in draft["inputs"].items() if name != "goal" or value != goal}
    plan = {"tasks": draft["tasks"], "native": draft["native"]}
    for length in LENGTHS:
        shown = {"goal": _cut(goal, length), **plan, "inputs": _cut_values(inputs, length)}
        said = json.dumps(shown, ensure_ascii=False, separators=(",", ":"))
        size = len(said.encode("utf-8", "surrogatepass"))
        if size <= CALL_BYTES_MAX:
            return shown
    text = f"the plan takes {size} bytes, and a person can be shown {CALL_BYTES_MAX}; ask for less at a time"
    raise PlanTooLarge(text)


def _cut_values(inputs: Mapping[str, Any], length: int) -> dict[str, Any]:
    """Each by itself; of a list, such as the texts of the plan, every member."""
    return {
        name: [_cut(one, length) for one in value] if isinstance(value, list) else _cut(value, length)
        for name, value in inputs.items()
    }


def _cut(value: Any, length: int) -> Any:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
    if len(text) <= length:
        return value
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return {"beginning": text[:length], "characters": len(text), "sha256": digest}
