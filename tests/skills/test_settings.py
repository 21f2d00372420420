"""What an operator says to a skill reaches that skill, and no other."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import SimpleNamespace

import pytest

from coterie.skills.shipped import BadSettings, MissingExtra, Settings, needs_extra, settings_of
from tests.skills.conftest import MakeBench
from tests.skills.test_sandbox import confined


class Mail(Settings):
    """Settings of a skill."""

    smtp_host: str
    ports: tuple[int, ...] = (25,)


async def test_a_skill_gets_its_own_settings(make_bench: MakeBench) -> None:
    bench = await make_bench(
        settings={"settings": {"password": "s"}, "plain-settings": {"n": [1, {"a": None}]}}
    )
    assert await bench.value("settings") == {"password": "s"}
    assert await bench.value("plain-settings") == {"n": [1, {"a": None}]}
    assert "password" not in repr(bench.host)


async def test_a_skill_without_settings_gets_none(make_bench: MakeBench) -> None:
    bench = await make_bench(settings={"other": {"password": "s"}})
    assert await bench.value("settings") == {}


async def test_a_confined_skill_gets_what_holds_no_secret(make_bench: MakeBench, tmp_path: Path) -> None:
    bench = await make_bench(
        settings={"guest": {"password": "s"}}, confined_settings={"guest": {"hosts": ["a.example"]}}
    )
    guest = confined(tmp_path / "guest", "def run(ctx, given):\n    return dict(ctx.settings)\n")
    assert await bench.value("guest", confined=guest) == {"hosts": ["a.example"]}
    assert await bench.value("other", confined=guest) == {}


def test_settings_are_read_in_both_spellings() -> None:
    for given in ({"smtpHost": "h", "ports": [1]}, {"smtp_host": "h", "ports": [1]}):
        assert settings_of(SimpleNamespace(settings=given), "mail", Mail) == Mail(smtp_host="h", ports=(1,))


def test_wrong_settings_are_named_without_their_values() -> None:
    given = {"smtpHots": "secret", "ports": ["x"]}
    with pytest.raises(BadSettings) as caught:
        settings_of(SimpleNamespace(settings=given), "mail", Mail)
    said = str(caught.value)
    assert all(
        part in said for part in ("skills.settings.mail", "smtpHost: Field required", "smtpHots", "ports.0")
    )
    assert "secret" not in said


def test_a_missing_library_says_what_to_install() -> None:
    with (
        pytest.raises(MissingExtra, match=r"no_such_thing .* pip install 'coterie\[data\]'"),
        needs_extra("data"),
    ):
        importlib.import_module("no_such_thing")
