"""The `run` frame: the one message with several parts. Both ends are written here, side by side."""

from __future__ import annotations

from collections.abc import Mapping

from coterie.skills.frames import Frame, Header
from coterie.skills.limits import Limits
from coterie.skills.link import RunFacts

RUN_HEADER_BYTES_MAX = 16 * 1024 * 1024
RUN_BODY_BYTES_MAX = 1024 * 1024 * 1024


def pack_run(
    header: Header, payload: bytes, checkpoint: bytes | None, steps: Mapping[str, bytes]
) -> tuple[Header, list[bytes]]:
    """Header and the parts of the body. `header` holds the small facts; the body is all bytes in a row."""
    described = {
        **header,
        "op": "run",
        "payload": len(payload),
        "checkpoint": None if checkpoint is None else len(checkpoint),
        "steps": [[key, len(result)] for key, result in steps.items()],
    }
    return described, [payload, checkpoint or b"", *steps.values()]


def unpack_run(frame: Frame, limits: Limits) -> tuple[bytes, RunFacts]:
    """The payload, and the rest of what the node said."""
    header, body = frame
    at = header["payload"]
    payload, checkpoint = body[:at], None
    if header["checkpoint"] is not None:
        checkpoint = body[at : at + header["checkpoint"]]
        at += header["checkpoint"]
    steps: dict[str, bytes] = {}
    for key, size in header["steps"]:
        steps[key] = body[at : at + size]
        at += size
    facts = RunFacts(
        task_id=header["task_id"],
        attempt=header["attempt"],
        node_id=header["node_id"],
        revision=header.get("revision", ""),
        steps=steps,
        checkpoint=checkpoint,
        checkpointed=header.get("checkpointed", 0),
        beside=header.get("beside", {}),
        step_bytes_max=limits.step_bytes_max,
        checkpoint_bytes_max=limits.checkpoint_bytes_max,
        settings=header.get("settings", {}),
    )
    return payload, facts
