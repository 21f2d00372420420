"""What the operator says to document-map."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from coterie.skills.errors import BadInput
from coterie.skills.shipped import BadSettings, HasSettings, Settings, settings_of


class MapSettings(Settings):
    """`skills.settings.document-map`."""

    witness: Annotated[str, Field(pattern="^(/|$)")] = ""


def check_witness(ctx: HasSettings, asked: str) -> None:
    """Nobody but the operator says which file of the node is written. Raises BadSettings, BadInput."""
    allowed = settings_of(ctx, "document-map", MapSettings).witness
    if not allowed:
        raise BadSettings(
            "skills.settings.document-map.witness: no file may be written; name the one that may"
        )
    if asked != allowed:
        raise BadInput(f"witness: {asked!r} is not the file that the operator allows; leave it out")
