"""The kinds of values that configuration files hold, and how each is read and shown."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    StrictInt,
    StrictStr,
)
from pydantic_core import CoreSchema, core_schema

from coterie.node.config.address import WILDCARDS, Address, check_host, parse_address
from coterie.node.units import (
    format_duration,
    format_size,
    parse_duration_ms,
    parse_ratio,
    parse_size_bytes,
)

_NODE_ID = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_NAME = re.compile(r"[^\s/\x00-\x1f]{1,100}")


@dataclass(frozen=True)
class Parsed:
    """A value that is written as text and kept as something else. `parse` raises ValueError."""

    parse: Callable[[object], object]
    show: Callable[..., str] = str

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        shown = core_schema.plain_serializer_function_ser_schema(self.show)
        return core_schema.no_info_plain_validator_function(self.parse, serialization=shown)


def between(low: str, high: str, parse: Callable[[object], int], show: Callable[[int], str]) -> Parsed:
    def read(value: object) -> int:
        number = parse(value)
        if number < parse(low):
            raise ValueError(f"{show(number)} is too little: at least {low}")
        if number > parse(high):
            raise ValueError(f"{show(number)} is too much: at most {high}")
        return number

    return Parsed(read, show)


def duration(low: str, high: str) -> Parsed:
    return between(low, high, parse_duration_ms, format_duration)


def size(low: str, high: str) -> Parsed:
    return between(low, high, parse_size_bytes, format_size)


def check_node_id(value: str) -> str:
    """The id itself; ValueError when it cannot be a directory, a DNS name and part of file names at once."""
    if not _NODE_ID.fullmatch(value) or value.lower() == "ca":  # ca.crt is the authority's
        raise ValueError(
            f"{value!r} is not a node id: use letters, digits and inner hyphens, at most 63, not ca"
        )
    return value


def check_name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError(f"{value!r} is not a name: use 1 to 100 characters without spaces and slashes")
    return value


def check_dialable(value: str) -> str:
    if check_host(value) in WILDCARDS:
        raise ValueError(f"{value!r} cannot be dialled: give the address at which other nodes reach this one")
    return value


def upper(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


class RelativePath:
    """Marks a path that is taken from the directory of the file it is written in."""


RELATIVE: Final = RelativePath()
FilePath = Annotated[Path, RELATIVE]
Port = Annotated[StrictInt, Field(ge=1, le=65_535)]
NodeId = Annotated[StrictStr, AfterValidator(check_node_id)]
Name = Annotated[StrictStr, AfterValidator(check_name)]
Host = Annotated[StrictStr, AfterValidator(check_dialable)]
Listener = Annotated[Address, Parsed(parse_address)]
Ratio = Annotated[float, BeforeValidator(parse_ratio)]


class Section(BaseModel):
    """A mapping in the file. Unknown keys were refused before, with a suggestion."""

    model_config = ConfigDict(frozen=True, extra="forbid")
