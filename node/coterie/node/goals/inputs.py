"""What a request brings along becomes inputs of its run: checked before anybody is asked anything."""

from __future__ import annotations

import json
from typing import Any

from coterie.node.skill_calls import refused

INPUTS_BYTES_MAX = 256 * 1024


def strict_json(value: Any) -> bytes:
    """As UTF-8. Raises ValueError for what JSON has not: NaN, infinity, halves of surrogate pairs."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode()


def inputs_json(inputs: Any) -> bytes:
    """Raises ApiError TOO_LARGE or BAD_ARGUMENTS."""
    try:
        said = strict_json(inputs)
    except (ValueError, RecursionError) as error:
        raise refused(
            "BAD_ARGUMENTS", f"goal, context or inputs cannot be written as JSON: {error}"
        ) from error
    if len(said) > INPUTS_BYTES_MAX:
        text = f"the inputs of the run, request and context included, take {len(said)} bytes, the limit is"
        raise refused("TOO_LARGE", f"{text} {INPUTS_BYTES_MAX}; pass what is large as a blob")
    return said
