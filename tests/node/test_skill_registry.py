"""skill-registry.yaml, key by key: each has effect, or is refused with what is right."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from coterie.client.skills import SkillPolicy
from coterie.node.skill_registry import RegistryError, read_registry

FILE = """
skills:
  # of one agent
  - id: ai-engineer
    name: Engineer's pack
    version: 2.1.0
    location: skills/ai-engineer
    owner: ai-engineer
    aliases: [agent-ai-001]
    visibility: private
    resource_requirements: {cpu: 2, memory: 4Gi, gpu: optional, timeout: 3600}
    handlers: [model_training, model_evaluation]
  # of all
  - id: shared/web-search
    owner: system
    visibility: public
    resource_requirements: {cpu: 500m, memory: 1Gi, gpu: required, timeout: 30}
    rate_limit: 100/minute
    retryPolicy: {max_retries: 2, initialBackoff: 1s, maxBackoff: 1m}
  - id: shared/notes
    version: latest
    timeout: 1h30m
    retry: {maxAttempts: 5, backoff: fixed, initial_backoff: 2s}
"""


def written(tmp_path: Path, text: str) -> Path:
    """The file, beside the folders that it names."""
    (tmp_path / "skills" / "ai-engineer").mkdir(parents=True, exist_ok=True)
    path = tmp_path / "skill-registry.yaml"
    path.write_text(textwrap.dedent(text))
    return path


def test_every_key_has_its_meaning(tmp_path: Path) -> None:
    one, two, three = read_registry(written(tmp_path, FILE))
    assert (one.skill_id, one.location) == ("ai-engineer", tmp_path / "skills" / "ai-engineer")
    assert one.policy == SkillPolicy(
        title="Engineer's pack", version="2.1.0", owner="ai-engineer", private=True, cpus=2,
        memory_bytes=4 << 30, timeout_ms=3_600_000, aliases=("agent-ai-001",),
        handlers=("model_training", "model_evaluation"),
    )  # fmt: skip
    assert (two.skill_id, two.location) == ("shared/web-search", None)
    assert two.policy == SkillPolicy(
        owner="system", cpus=1, memory_bytes=1 << 30, gpus=1, timeout_ms=30_000, rate_count=100,
        rate_period_ms=60_000, max_attempts=3, initial_backoff_ms=1_000, max_backoff_ms=60_000,
    )  # fmt: skip
    assert three.policy == SkillPolicy(
        timeout_ms=5_400_000, max_attempts=5, initial_backoff_ms=2_000, max_backoff_ms=2_000
    )


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("{id: a, ownr: b}", "skills[0].ownr: unknown key; known: id, name"),
        ("{id: ../a}", "skills[0].id: '../a' is not a name such as shared/web-search"),
        ("{}", "skills[0].id: '' is not a name"),
        ("just-a-name", "skills[0]: is not a map"),
        ("{id: a, visibility: secret}", "visibility: 'secret' is neither private nor public"),
        ("{id: a, visibility: private}", "owner: missing; a private skill belongs to an agent"),
        ("{id: a, location: nowhere}", "location: there is no folder"),
        ("{id: a, rate_limit: fast}", "rate_limit: 'fast' is not a rate; write text such as \"100/minute\""),
        ("{id: a, timeout: soon}", "timeout: "),
        ("{id: a, handlers: train}", "handlers: 'train' is not a list of names"),
        ("{id: a, resources: {cpu: many}}", "resources: cpu: 'many' is not a number of processors"),
        ("{id: a, resources: {memory: 1}}", "resources: memory: 1 is not in"),
        ("{id: a, resources: {gpu: some}}", "resources: gpu: 'some' is not a whole number"),
        ("{id: a, resources: {disk: 1}}", "resources: 'disk': unknown key; known: cpu, memory, gpu"),
        ("{id: a, retry: {maxAttempts: 0}}", "retry: maxAttempts: 0 is not in 1..100"),
        ("{id: a, retry: {backoff: fixed}}", "retry: backoff: fixed is as long as initialBackoff"),
        ("{id: a, retry: {backoff: none}}", "retry: backoff: 'none' is neither exponential nor fixed"),
    ],
)
def test_what_has_no_meaning_is_refused(tmp_path: Path, entry: str, said: str) -> None:
    with pytest.raises(RegistryError) as refused:
        read_registry(written(tmp_path, f"skills: [{entry}]"))
    assert any(said in problem for problem in refused.value.problems), refused.value.problems


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(RegistryError) as refused:
        read_registry(written(tmp_path, "skills: [{id: a, x: 1, timeout: soon}, {id: b}, {id: b}]"))
    assert len(refused.value.problems) == 3
    assert refused.value.problems[-1] == "skills: b is there twice"


DEEP = f"skills: {'[' * 2_000}{']' * 2_000}"


@pytest.mark.parametrize(
    "text",
    ["", "[]", "skills: {}", "skills: []\nmore: 1", "a: [", "skills: \x00", DEEP],
    ids=lambda text: text[:15],
)
def test_a_file_of_another_shape_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(RegistryError, match=r"skill-registry\.yaml"):
        read_registry(written(tmp_path, text))
