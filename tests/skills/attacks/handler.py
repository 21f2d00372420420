"""What an untrusted skill may try. Each attack returns what it won, or fails."""

from __future__ import annotations

import json
import os
from typing import Any

from . import excess, files, kit, network, owner, processes, rights

CHAPTERS = (excess, files, network, owner, processes, rights)  # each registers its attacks
PR_GET_SECCOMP = 21
PR_GET_NO_NEW_PRIVS = 39
FILTERED = 2  # what PR_GET_SECCOMP says behind a filter


def run(ctx: Any, given: dict[str, Any]) -> Any:
    """Make one attack, and say first where it is made: most attacks end their own process, or are ended."""
    walls = kit.libc.prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1
    walls = walls and kit.libc.prctl(PR_GET_SECCOMP, 0, 0, 0, 0) == FILTERED
    # Not through the frames: some attacks forge these.
    print(json.dumps({"began": given["attack"], "walls": walls, "uid": os.getuid()}), flush=True)
    return {"won": kit.ATTACKS[given["attack"]](given)}
