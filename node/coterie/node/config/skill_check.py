"""What is wrong with the settings of shipped skills, found when a node starts and not when a task runs."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Set
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from coterie.node.config.loading import describe
from coterie.skills.shipped_settings import model_of

HIDDEN = "a value that is not shown"


def setting_faults(skill: str, values: Mapping[str, Any], secrets: Set[str]) -> list[str]:
    """One line for each key that is unknown, missing or wrong. `secrets` are never in it."""
    model = model_of(skill)
    if model is None:
        return []
    try:
        model.model_validate(dict(values))
    except ValidationError as error:
        return list(
            dict.fromkeys(
                _line(skill, values, one, secrets, model) for one in error.errors(include_url=False)
            )
        )
    return []


def _line(
    skill: str, values: Mapping[str, Any], detail: ErrorDetails, secrets: Set[str], model: type[BaseModel]
) -> str:
    place = _place(values, detail["loc"])
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
    if detail["type"] == "extra_forbidden":
        text = _unknown(str(place[-1]), model)
    elif isinstance(detail["input"], str) and detail["input"] in secrets:
        text = f"{HIDDEN}: {detail['msg']}"
    else:
        text = describe(detail)
    return f"skills.settings.{skill}{where}: {text}"


def _place(values: Any, location: tuple[int | str, ...]) -> list[int | str]:
    """Where the file has it: without what pydantic says of the branches of a type."""
    place: list[int | str] = []
    for at, part in enumerate(location):
        if isinstance(values, Mapping) and (part in values or at == len(location) - 1):
            values = values.get(part)
        elif isinstance(values, list | tuple) and isinstance(part, int) and part < len(values):
            values = values[part]
        else:
            continue
        place.append(part)
    return place


def _unknown(key: str, model: type[BaseModel]) -> str:
    schema = model.model_json_schema()
    parts = [schema, *schema.get("$defs", {}).values()]
    known = sorted({name for part in parts for name in part.get("properties", {})})
    near = difflib.get_close_matches(key, known, n=1)
    return f"unknown key; did you mean {near[0]}?" if near else f"unknown key; known: {', '.join(known)}"
