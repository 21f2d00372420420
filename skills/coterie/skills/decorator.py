"""`@skill(...)`: what a handler says about itself in code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

Effects = Literal["none", "idempotent", "external"]
EFFECTS: tuple[Effects, ...] = ("none", "idempotent", "external")

Handler = Callable[..., Any]
HandlerT = TypeVar("HandlerT", bound=Handler)
_ATTRIBUTE = "__coterie_skill__"


@dataclass(frozen=True, slots=True)
class SkillMark:
    """What the decorator recorded. Empty means: not said here."""

    name: str
    description: str
    version: str
    timeout: str | float | None
    effects: str


def skill(
    *,
    name: str,
    description: str = "",
    version: str = "",
    timeout: str | float | None = None,
    effects: Effects | None = None,
) -> Callable[[HandlerT], HandlerT]:
    """Mark `async def run(ctx, input)` (or a plain function, run in a thread) as the skill `name`.

    Beside a SKILL.md the file's values win. `timeout`: seconds, or text such as "30s" or "10m"; 0 is
    none. `description` defaults to the first line of the docstring. `effects`: what a run does to the
    world: none, idempotent (may safely happen twice) or external.
    """
    if effects is not None and effects not in EFFECTS:
        raise ValueError(f"effects: {effects!r} is none of {', '.join(EFFECTS)}")

    def mark(handler: HandlerT) -> HandlerT:
        said = description or (handler.__doc__ or "").strip().partition("\n")[0]
        setattr(handler, _ATTRIBUTE, SkillMark(name, said, version, timeout, effects or ""))
        return handler

    return mark


def mark_of(handler: object) -> SkillMark | None:
    """What the decorator recorded on `handler`, if anything."""
    mark = getattr(handler, _ATTRIBUTE, None)
    return mark if isinstance(mark, SkillMark) else None
