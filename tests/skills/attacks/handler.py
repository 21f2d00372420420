"""What an untrusted skill may try. Each attack returns what it won, or fails."""

from __future__ import annotations

from typing import Any

from . import excess, files, kit, network, processes, rights

CHAPTERS = (excess, files, network, processes, rights)  # each registers its attacks


def run(ctx: Any, given: dict[str, Any]) -> Any:
    """Make one attack."""
    return {"won": kit.ATTACKS[given["attack"]](given)}
