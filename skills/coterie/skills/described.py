"""What `metadata.coterie` of a SKILL.md says: the handler, what it needs and promises. All faults at once."""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from coterie.skills.decorator import EFFECTS
from coterie.skills.manifest import ManifestError, parse_duration_ms
from coterie.skills.targets import parse_target

SCHEMA_CHARS_MAX = 24 * 1024
NETWORK_MAX = 64
CPUS_MAX, GPUS_MAX, ATTEMPTS_MAX = 1_024, 64, 100
MEMORY_BYTES_MIN, MEMORY_BYTES_MAX = 64 * 1024**2, 1 << 50
RATE_COUNT_MAX = 1_000_000_000  # as of any limit
_SIZE = re.compile(r"(\d{1,20}(?:\.\d{1,20})?)\s*([KMGT]i?)?B?")
_SIZE_UNITS: dict[str, int] = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12} | {
    f"{letter}i": 1024**power for power, letter in enumerate("KMGT", start=1)
}
_RATE = re.compile(r"(\d+)\s*(?:req)?\s*/\s*(second|minute|min|hour|day|s|m|h|d)")
_PERIOD_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}

Fault = tuple[str, str]
"""The field, and what is wrong with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """The meaning of the keys. 0 and empty: not said. JSON-encodable by `as_json`."""

    handler: str = ""
    effects: str = ""
    timeout_ms: int = 0
    cpus: int = 0
    memory_bytes: int = 0
    gpus: int = 0
    rate_count: int = 0
    rate_period_ms: int = 0
    attempts_max: int = 0
    backoff_initial_ms: int = 0
    backoff_max_ms: int = 0
    network: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    """Python modules that must be installed on the nodes."""
    input: dict[str, Any] | None = None
    """JSON schema; None: anything."""
    output: dict[str, Any] | None = None
    version: str = ""
    description: str = ""
    folder_name: str = field(default="")

    def as_json(self) -> str:
        """Only what is said."""
        return json.dumps({name: value for name, value in asdict(self).items() if value}, sort_keys=True)


def from_json(text: str) -> Described:
    """The same again."""
    values = json.loads(text or "{}")
    for name in ("network", "requires"):
        if name in values:
            values[name] = tuple(values[name])
    return Described(**values)


def described(ours: Mapping[str, Any], files: Mapping[str, bytes]) -> tuple[Described, list[Fault]]:
    """The meaning of `metadata.coterie`, and all that is wrong with it. `files`: for schemas it names."""
    faults: list[Fault] = []
    values: dict[str, Any] = {}
    for key, given in ours.items():
        name = _snake(str(key))
        reader = _READERS.get(name)
        at = f"metadata.coterie.{key}"
        if reader is None:
            near = difflib.get_close_matches(name, _READERS, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(_READERS)}"
            faults.append((at, f"unknown key; {hint}"))
            continue
        try:
            values |= reader(given, files)
        except (ValueError, ManifestError) as error:
            faults.append((at, str(error)))
    return Described(**values), faults


def parse_bytes(value: object) -> int:
    """Bytes of a number, or of text such as "512Mi" or "4Gi". Raises ValueError."""
    match = _SIZE.fullmatch(str(value).strip())
    if match is None or isinstance(value, bool):
        raise ValueError(f'{str(value)[:80]!r} is not a size; write bytes or text such as "512Mi" or "4Gi"')
    return int(float(match[1]) * _SIZE_UNITS[match[2] or ""])


def parse_rate(value: object) -> tuple[int, int]:
    """Count and period in ms of text such as "100/minute". Raises ValueError."""
    match = _RATE.fullmatch(str(value).strip())
    if match is None or int(match[1]) < 1:
        raise ValueError(f'{str(value)[:80]!r} is not a rate; write text such as "100/minute"')
    if int(match[1]) > RATE_COUNT_MAX:
        raise ValueError(f"{str(value)[:80]!r} is not a rate of at most {RATE_COUNT_MAX}")
    return int(match[1]), _PERIOD_MS[match[2][0]]


def parse_resources(given: object) -> dict[str, int]:
    """cpus, memory_bytes and gpus of `resources`. Raises ValueError."""
    if not isinstance(given, Mapping):
        raise ValueError(f"{given!r} is not a map of cpu, memory and gpu")
    values: dict[str, int] = {}
    wrong: list[str] = []
    for key, value in given.items():
        try:
            values |= _resource(key, value)
        except ValueError as error:
            wrong.append(str(error))
    if wrong:
        raise ValueError("; ".join(wrong))
    return values


def _resource(key: object, value: object) -> dict[str, int]:
    if key == "cpu":
        return {"cpus": _cpus(value)}
    if key == "memory":
        try:
            size = parse_bytes(value)
        except ValueError as error:
            raise ValueError(f"memory: {error}") from error
        return {"memory_bytes": _within("memory", size, MEMORY_BYTES_MIN, MEMORY_BYTES_MAX)}
    if key == "gpu":
        return {"gpus": _gpus(value)}
    raise ValueError(f"{key!r}: unknown key; known: cpu, memory, gpu")


def parse_retry(given: object) -> dict[str, int]:
    """attempts_max, backoff_initial_ms and backoff_max_ms of `retry`. Raises ValueError, ManifestError."""
    if not isinstance(given, Mapping):
        raise ValueError(f"{given!r} is not a map of maxAttempts, backoff and maxBackoff")
    values: dict[str, int] = {}
    fixed = False
    for key, value in given.items():
        name = _snake(str(key))
        if name in ("max_attempts", "max_retries"):
            count = _whole(str(key), value) + (name == "max_retries")
            values["attempts_max"] = _within(str(key), count, 1, ATTEMPTS_MAX)
        elif name in ("initial_backoff", "max_backoff"):
            values[f"backoff_{name.partition('_')[0]}_ms"] = parse_duration_ms(value, str(key))
        elif name == "backoff":
            if value not in ("exponential", "fixed"):
                raise ValueError(f"backoff: {value!r} is neither exponential nor fixed")
            fixed = value == "fixed"
        else:
            raise ValueError(f"{key!r}: unknown key; known: maxAttempts, initialBackoff, maxBackoff, backoff")
    if fixed:
        if "backoff_initial_ms" not in values or "backoff_max_ms" in values:
            raise ValueError("backoff: fixed is as long as initialBackoff: give that, and no maxBackoff")
        values["backoff_max_ms"] = values["backoff_initial_ms"]
    return values


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", name).lower().replace("-", "_")


def _whole(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{name}: {value!r} is not a whole number")
    return value


def _within(name: str, value: int, least: int, most: int) -> int:
    if not least <= value <= most:
        raise ValueError(f"{name}: {value} is not in {least}..{most}")
    return value


def _cpus(value: object) -> int:
    """Whole processors; "500m" is half of one, which takes a whole one."""
    text = str(value)
    try:
        count = float(text[:-1]) / 1_000 if text.endswith("m") else float(text)
        return _within("cpu", math.ceil(count), 1, CPUS_MAX)
    except (ValueError, OverflowError) as error:
        raise ValueError(f'cpu: {value!r} is not a number of processors such as 2 or "500m"') from error


def _gpus(value: object) -> int:
    if value in ("none", "optional", None):
        return 0
    return 1 if value == "required" else _within("gpu", _whole("gpu", value), 0, GPUS_MAX)


def _texts(name: str, given: object, most: int) -> tuple[str, ...]:
    if not isinstance(given, list) or not all(isinstance(one, str) for one in given) or len(given) > most:
        raise ValueError(f"{name}: {given!r} is not a list of at most {most} texts")
    return tuple(given)


def _effects(given: Any, files: Mapping[str, bytes]) -> dict[str, Any]:
    if given not in EFFECTS:
        raise ValueError(f"{given!r} is none of {', '.join(EFFECTS)}")
    return {"effects": given}


def _handler(given: Any, files: Mapping[str, bytes]) -> dict[str, Any]:
    path, _, function = str(given).partition(":")
    if path not in files or not path.endswith(".py"):
        raise ValueError(f'{given!r}: there is no such file; write "handlers/x.py:run"')
    if function and not function.isidentifier():
        raise ValueError(f'{given!r}: {function!r} is not the name of a function; write "handlers/x.py:run"')
    return {"handler": str(given)}


def _network(given: Any, files: Mapping[str, bytes]) -> dict[str, Any]:
    entries = _texts("network", given, NETWORK_MAX)
    for entry in entries:
        parse_target(entry)
    return {"network": entries}


def _requires(given: Any, files: Mapping[str, bytes]) -> dict[str, Any]:
    if not isinstance(given, Mapping) or set(given) - {"python"}:
        raise ValueError(f'{given!r}: write {{"python": ["module", …]}}; a sandbox has no programs to run')
    return {"requires": _texts("python", given.get("python", []), NETWORK_MAX)}


def _rate(given: Any, files: Mapping[str, bytes]) -> dict[str, Any]:
    count, period_ms = parse_rate(given)
    return {"rate_count": count, "rate_period_ms": period_ms}


def _schema(name: str) -> Callable[[Any, Mapping[str, bytes]], dict[str, Any]]:
    def read(given: Any, files: Mapping[str, bytes]) -> dict[str, Any]:
        if isinstance(given, str):
            if given not in files:
                raise ValueError(f"{given!r}: there is no such file in the skill's folder")
            try:
                given = json.loads(files[given])
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{given}: not JSON ({error})") from error
        if not isinstance(given, Mapping):
            raise ValueError("is neither a JSON schema nor the file of one")
        if len(json.dumps(given)) > SCHEMA_CHARS_MAX:
            raise ValueError(f"the schema has more than {SCHEMA_CHARS_MAX} characters")
        return {name: dict(given)}

    return read


_READERS: dict[str, Callable[[Any, Mapping[str, bytes]], dict[str, Any]]] = {
    "handler": _handler,
    "effects": _effects,
    "timeout": lambda given, files: {"timeout_ms": parse_duration_ms(given, "timeout")},
    "resources": lambda given, files: parse_resources(given),
    "rate_limit": _rate,
    "retry": lambda given, files: parse_retry(given),
    "retry_policy": lambda given, files: parse_retry(given),
    "network": _network,
    "requires": _requires,
    "input": _schema("input"),
    "output": _schema("output"),
}
