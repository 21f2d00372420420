"""docs/configuration.md and the program know the same keys, with the same defaults, and tests that exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import pytest
import yaml
from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo

from coterie.node.config import ConfigError, load_config
from coterie.node.config.document import KEYS as AGREED
from coterie.node.config.document import is_replicated
from coterie.node.config.model import ClusterConfig
from coterie.node.config.support import REFUSED_KEYS
from tests.node.test_config_published import MULTI_AGENT, printed_keys

ROOT = Path(__file__).resolve().parents[2]
PAGE, REFUSED = (ROOT / "docs/configuration.md").read_text(encoding="utf-8").split("## Refused")
PAGE, VARIABLES = PAGE.split("## From the environment")
ROW = re.compile(r"^\| `([^`]+)` \| (.+?) \| (.+) \| `(tests/[^`]+\.py)` \|$", re.MULTILINE)
ROWS = {found[0]: found[1:] for found in ROW.findall(PAGE)}
MANY = {str(tuple): "[]", str(dict): ".*"}
NOTHING: list[Any] = [None, (), {}, ""]


def camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.title() for word in rest)


def section_in(kind: Any) -> type[BaseModel] | None:
    """The section a field holds: itself, or in a list or a mapping."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind
    found = (section_in(inner) for inner in get_args(kind))
    return next((section for section in found if section is not None), None)


def keys_of(section: type[BaseModel], at: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every key that holds a value, as a file writes it."""
    for name, info in section.model_fields.items():
        path = f"{at}.{camel(name)}".lstrip(".")
        inner, many = section_in(info.annotation), str(get_origin(info.annotation))
        if inner is None:
            yield path, info
        else:
            yield from keys_of(inner, path + MANY.get(many, ""))


KEYS = dict(keys_of(ClusterConfig))


def test_the_page_has_every_key_and_no_other() -> None:
    assert set(ROWS) == set(KEYS)
    assert len(ROW.findall(PAGE)) == len(ROWS) == PAGE.count("\n| `"), "each once, each well written"


@pytest.mark.parametrize("key", sorted(set(KEYS) & set(ROWS)))
def test_a_default_is_what_the_page_says(key: str) -> None:
    info, said = KEYS[key], ROWS[key][0]
    if said == "required":
        assert info.is_required()
        return
    default = info.get_default(call_default_factory=True)
    if said == "none":
        assert default in NOTHING or not str(default).strip(":"), default
        return
    kind: Any = Annotated[info.annotation, *info.metadata] if info.metadata else info.annotation
    assert TypeAdapter(kind).validate_python(yaml.safe_load(said.strip("`"))) == default


def test_the_tests_that_the_page_names_exist() -> None:
    assert {test for _, _, test in ROWS.values() if not (ROOT / test).is_file()} == set()


def test_refused_keys_are_named_with_their_reasons() -> None:
    rows = re.findall(r"^\| `([^`]+)` \| (.+) \|$", REFUSED, re.MULTILINE)
    assert dict(rows) == {".".join(map(camel, key)): why for key, why in REFUSED_KEYS.items()}


@pytest.mark.parametrize("key", REFUSED_KEYS, ids=".".join)
def test_a_refused_key_is_refused_with_its_reason(key: tuple[str, ...], tmp_path: Path) -> None:
    value: Any = {}
    for name in reversed(key):
        value = {camel(name): value}
    file = tmp_path / "cluster.yaml"
    file.write_text(yaml.safe_dump(value), encoding="utf-8")
    with pytest.raises(ConfigError) as refused:
        load_config([file], {})
    assert f"{'.'.join(map(camel, key))}: {REFUSED_KEYS[key]}" in str(refused.value)


def test_every_key_of_the_published_files_is_there() -> None:
    printed = {re.sub(r"\.0\b", "[]", key) for key in printed_keys()}
    assert printed - set(KEYS) == set()
    section = yaml.safe_load(MULTI_AGENT.read_text(encoding="utf-8"))["multi_agent"]
    named = {key.split(".")[1] for key in KEYS if key.startswith("multiAgent.")}
    refused = {camel(key[1]) for key in REFUSED_KEYS if key[0] == "multi_agent"}
    assert {camel(key) for key in section} <= named | refused


def snake(key: str) -> tuple[str, ...]:
    return tuple(re.sub(r"([A-Z])", r"_\1", part.removesuffix("[]")).lower() for part in key.split("."))


def test_keys_that_the_cluster_agrees_on_are_marked() -> None:
    marked = {key for key, (_, effect, _) in ROWS.items() if effect.endswith(" †")}
    assert marked == {key for key in KEYS if is_replicated(snake(key))}


def test_the_page_on_security_names_what_the_cluster_agrees_on() -> None:
    text = (ROOT / "docs/security.md").read_text(encoding="utf-8")
    told = set(re.findall(r"`([\w.]+)`", text.split("Agreed on are: ")[1].split("†")[0]))
    for key in AGREED:
        names = [camel(part) for part in key]
        assert any(".".join(names[:length]) in told for length in range(1, len(names) + 1)) or (
            names[0] in told and names[-1] in told
        ), ".".join(names)


def test_every_variable_is_on_the_page() -> None:
    sources = [path for part in ("node", "skills") for path in (ROOT / part).rglob("*.py")]
    named = {name for path in sources for name in re.findall(r"\bCOTERIE_[A-Z_]+\b", path.read_text("utf-8"))}
    assert named and named <= set(re.findall(r"`(COTERIE_[A-Z_]+)`", VARIABLES))
