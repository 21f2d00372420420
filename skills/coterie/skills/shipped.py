"""What the shipped skills share: typed input, settings of the operator, and libraries that may be missing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel

from coterie.skills.context import SkillContext
from coterie.skills.errors import NonRetryable

SettingsT = TypeVar("SettingsT", bound="Settings")


class Input(BaseModel):
    """The input of a shipped skill: keys that are not known are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Settings(BaseModel):
    """What an operator writes under `skills.settings.<skill>`, in camelCase or snake_case."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        alias_generator=to_camel,
        populate_by_name=True,
        hide_input_in_errors=True,
    )


class BadSettings(NonRetryable):
    """The operator's settings of the skill are missing or wrong; the caller cannot help it."""

    code = "BAD_SETTINGS"


class MissingExtra(NonRetryable):
    """A library that the skill needs is not installed on this node."""

    code = "MISSING_EXTRA"


class HasSettings(Protocol):
    """A context, as far as settings go."""

    settings: Mapping[str, Any]


def settings_of(ctx: HasSettings, skill: str, model: type[SettingsT]) -> SettingsT:
    """The settings, checked. Raises BadSettings naming every wrong key; values, which may be secrets, are
    not shown."""
    try:
        return model.model_validate(dict(ctx.settings))
    except ValidationError as error:
        faults = [
            f"{'.'.join(str(part) for part in one['loc']) or skill}: {one['msg']}" for one in error.errors()
        ]
        text = f"skills.settings.{skill} in the node's file: {'; '.join(faults)}"
        raise BadSettings(text) from None


@contextmanager
def needs_extra(extra: str) -> Iterator[None]:
    """Import inside this: a library that is missing becomes MissingExtra, which says what to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("coterie"):
            raise
        text = f"{error.name} is not installed on this node; run: pip install 'coterie[{extra}]'"
        raise MissingExtra(text) from error


async def permissions_of(ctx: SkillContext) -> Mapping[str, Any] | None:
    """What the agent may touch on whose behalf the task runs: file_access, paths, network_access and
    allowed_endpoints; None: it runs for no agent, and the operator's settings alone count."""
    found: Mapping[str, Any] | None = await ctx._link.call("agent.permissions", {})
    return found
