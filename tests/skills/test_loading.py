"""Skills on disk: what loads, what is skipped and why. Each fault leaves the others untouched."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from coterie.node.skillhost import SkillHostOptions, SkillInfo
from coterie.skills import skill
from coterie.skills.manifest import Manifest, ManifestError, parse_duration_ms, parse_manifest
from coterie.skills.registry import SHIPPED_DIR, discover
from tests.skills.conftest import MakeBench
from tests.skills.support import SAMPLES

RUN = "async def run(ctx, input):\n    return input\n"
WriteFolder = Callable[..., Path]


def manifest(name: str, handler: str = "handler.py:run", **more: str) -> str:
    """A SKILL.md whose metadata is nested."""
    ours = "".join(f"    {key}: {value}\n" for key, value in ({"handler": handler} | more).items())
    return (
        f"---\nname: {name}\ndescription: Does {name}. Use in tests.\nmetadata:\n"
        f'  version: "2.0"\n  coterie:\n{ours}---\n# Body\n'
    )


def test_metadata_may_be_a_json_text_or_nested() -> None:
    nested = parse_manifest(manifest("a", timeout="1h30m", effects="external"), "a")
    ours = '{"handler":"handler.py:run","timeout":"1h30m","effects":"external"}'
    as_text = parse_manifest(
        f"---\nname: a\ndescription: Does a. Use in tests.\nmetadata:\n  version: '2.0'\n"
        f"  coterie: '{ours}'\n---\n# Body\n",
        "a",
    )
    assert nested == as_text
    assert nested == Manifest(
        name="a",
        description="Does a. Use in tests.",
        version="2.0",
        handler="handler.py:run",
        timeout_ms=5_400_000,
        effects="external",
        body="# Body\n",
    )


def test_a_value_with_an_unquoted_colon_is_read() -> None:
    text = "---\nname: a\ndescription: Use when: the user asks: why\n---\n"
    assert parse_manifest(text, "a").description == "Use when: the user asks: why"


def test_a_name_that_differs_from_the_folder_is_a_warning() -> None:
    text = "---\nname: other\ndescription: d\n---\n"
    assert parse_manifest(text, "folder").warnings == ("name: 'other' differs from its folder 'folder'",)
    # Folders that are Python packages have underscores; that is the same name.
    assert parse_manifest("---\nname: a-b\ndescription: d\n---\n", "a_b").warnings == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no front matter"),
        ("---\nname: a\n", "no closing"),
        ("---\n- a\n---\n", "not a map"),
        ("---\na: [\n---\n", "not YAML"),
        ("---\nname: a\n---\n", "description: missing"),
        ("---\ndescription: d\n---\n", "name: missing"),
        ("---\nname: a/b\ndescription: d\n---\n", "name: 'a/b'"),
        ("---\nname: [a]\ndescription: d\n---\n", "name: .* is not text"),
        ("---\nname: a\ndescription: d\nmetadata: x\n---\n", "metadata: 'x' is not a map"),
        ("---\nname: a\ndescription: d\nmetadata:\n  coterie: '{'\n---\n", "metadata.coterie: not JSON"),
        ("---\nname: a\ndescription: d\nmetadata:\n  coterie: [1]\n---\n", "metadata.coterie: .* not a map"),
        (manifest("a", timeout="soon"), "timeout: 'soon' is not a duration"),
        (manifest("a", effects="some"), "effects: 'some' is none of none, idempotent, external"),
    ],
)
def test_a_bad_manifest_names_field_and_remedy(text: str, said: str) -> None:
    with pytest.raises(ManifestError, match=said):
        parse_manifest(text, "a")


@pytest.mark.parametrize(
    ("value", "duration_ms"),
    [
        (30, 30_000),
        (0.5, 500),
        ("45", 45_000),
        ("500ms", 500),
        ("500m", 30_000_000),
        ("1d", 86_400_000),
        (0, 0),
    ],
)
def test_durations(value: Any, duration_ms: int) -> None:
    assert parse_duration_ms(value, "timeout") == duration_ms


@pytest.mark.parametrize("value", ["", "5x", "s", "1h 5m", -1, "-1s", True, None, "inf", "nan", "999d"])
def test_bad_durations(value: Any) -> None:
    with pytest.raises(ManifestError, match="timeout: "):
        parse_duration_ms(value, "timeout")


def test_folders_between_root_and_skill_are_its_namespace(skill_folder: WriteFolder) -> None:
    skill_folder("plain", manifest("plain"), RUN)
    root = skill_folder("shared/web-search", manifest("web-search"), RUN)
    skill_folder("a/b/c/d/e/f/too-deep", manifest("too-deep"), RUN)
    skill_folder("node_modules/skipped", manifest("skipped"), RUN)
    sources, problems = discover([root])
    assert [source.name for source in sources] == ["plain", "shared/web-search"]
    assert problems == []


@pytest.mark.parametrize("handler", ["../handler.py:run", "/etc/x.py:run", "handler.txt:run", "none.py:run"])
def test_a_handler_outside_the_skill_is_refused(skill_folder: WriteFolder, handler: str) -> None:
    sources, (problem,) = discover([skill_folder("a", manifest("a", handler), RUN)])
    assert sources == []
    assert problem.skipped and "metadata.coterie.handler" in problem.message


def test_the_decorator_refuses_an_unknown_effect_class() -> None:
    with pytest.raises(ValueError, match="effects: 'maybe'"):
        skill(name="a", effects="maybe")  # type: ignore[arg-type]


@pytest.mark.parametrize("changes", [{"max_children": 0}, {"max_children": 5_000}, {"warm_children": 9}])
def test_bad_options_are_refused(changes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        SkillHostOptions(skill_dirs=(), node_id="n", **changes)  # type: ignore[arg-type]


async def test_shipped_and_marked_skills_are_described(make_bench: MakeBench) -> None:
    bench = await make_bench(SHIPPED_DIR, SAMPLES)
    skills = bench.host.skills
    said = SkillInfo("model", "1.2.3", "Takes and gives models.", 120_000, "none")
    assert replace(skills["model"], input="") == said
    assert json.loads(skills["model"].input)["required"] == ["item"]
    assert (skills["echo"].timeout_ms, skills["sleep"].timeout_ms) == (30_000, 0)
    assert skills["pid"].effects == "idempotent"
    assert [problem for problem in bench.host.problems if problem.skipped] == []


async def test_a_skill_s_own_timeout_counts_when_the_job_has_none(
    make_bench: MakeBench, skill_folder: WriteFolder
) -> None:
    handler = "import time\ndef run(ctx, input):\n    time.sleep(3600)\n"
    bench = await make_bench(skill_folder("slow", manifest("slow", timeout="200ms"), handler))
    assert (await bench.run("slow")).message == "the attempt took longer than 200 ms"


@pytest.mark.parametrize("timeout", ["0", None])
async def test_a_skill_that_says_nothing_has_the_cluster_s_and_one_that_says_0_has_none(
    make_bench: MakeBench, skill_folder: WriteFolder, timeout: str | None
) -> None:
    handler = "import time\ndef run(ctx, input):\n    time.sleep(input)\n    return 'done'\n"
    said = manifest("slow", timeout=timeout) if timeout is not None else manifest("slow")
    bench = await make_bench(skill_folder("slow", said, handler))
    if timeout is None:
        outcome = await bench.run("slow", 3_600, default_timeout_ms=200)
        assert outcome.message == "the attempt took longer than 200 ms"
    else:
        assert await bench.value("slow", 0.6, default_timeout_ms=200) == "done"


async def test_two_skills_may_have_files_of_the_same_name(
    make_bench: MakeBench, skill_folder: WriteFolder
) -> None:
    for name in ("a-b", "a_b"):
        root = skill_folder(name, manifest(name, "handlers/main.py:run"), None)
        (root / name / "handlers").mkdir()
        (root / name / "handlers" / "words.py").write_text(f"WORD = {name!r}\n")
        (root / name / "handlers" / "main.py").write_text(
            "from .words import WORD\nasync def run(ctx, input):\n    return WORD\n"
        )
    bench = await make_bench(root)
    assert [await bench.value("a-b"), await bench.value("a_b")] == ["a-b", "a_b"]


async def test_a_manifest_wins_over_the_decorator(make_bench: MakeBench, skill_folder: WriteFolder) -> None:
    handler = (
        "from coterie.skills import skill\n"
        "@skill(name='x', version='9', timeout='9s', effects='none')\n" + RUN
    )
    bench = await make_bench(
        skill_folder("marked", manifest("marked", "handler.py", effects="external"), handler)
    )
    info = SkillInfo("marked", "2.0", "Does marked. Use in tests.", 9_000, "external")
    assert {name: replace(one, manual="") for name, one in bench.host.skills.items()} == {"marked": info}


BROKEN = {
    "raises": ("1 / 0", "importing handler.py failed: ZeroDivisionError"),
    "syntax": ("def", "importing handler.py failed: SyntaxError"),
    "missing": ("import no_such_module_at_all", "importing handler.py failed: ModuleNotFoundError"),
    "exits": ("import sys; sys.exit(1)", "importing handler.py failed: SystemExit"),
    "dies": ("import os; os._exit(7)", "importing it ended the process (exited with status 7)"),
    "aborts": ("import os; os.abort()", "importing it ended the process (killed by SIGABRT)"),
    "hangs": ("while True: pass", "importing it took longer than 5000 ms"),
    "no-function": ("x = 1", "handler.py has no function 'run'"),
    "wrong-shape": ("def run(): pass", "run must take (ctx, input)"),
}


async def test_a_skill_that_cannot_load_is_skipped_and_the_others_load(
    make_bench: MakeBench, skill_folder: WriteFolder
) -> None:
    for name, (handler, _) in BROKEN.items():
        skill_folder(name, manifest(name), handler + "\n")
        skill_folder(f"after-{name}", manifest(f"after-{name}"), RUN)
    skill_folder("instructions", "---\nname: instructions\ndescription: Only text.\n---\nRead this.\n")
    root = skill_folder("nothing-said", "---\nname: nothing-said\n---\n", RUN)
    bench = await make_bench(root, root / "no-such-folder", limits={"load_timeout_ms": 5_000})
    assert set(bench.host.skills) == {f"after-{name}" for name in BROKEN}
    said = {Path(problem.path).parent.name: problem.message for problem in bench.host.problems}
    for name, (_, message) in BROKEN.items():
        assert said[name].startswith(message), (name, said[name])
    assert said["nothing-said"].startswith("description: missing")
    assert any(problem.path.endswith("no-such-folder") for problem in bench.host.problems)
    assert await bench.value("after-hangs", 5) == 5


async def test_of_two_skills_of_one_name_the_first_is_kept(
    make_bench: MakeBench, skill_folder: WriteFolder, tmp_path: Path
) -> None:
    skill_folder("one/same", manifest("same"), "async def run(ctx, input):\n    return 1\n")
    skill_folder("two/same", manifest("same"), "async def run(ctx, input):\n    return 2\n")
    bench = await make_bench(tmp_path / "one", tmp_path / "two")
    assert await bench.value("same") == 1
    (problem,) = bench.host.problems
    assert problem.message == "another skill is called 'same' already"


async def test_a_skill_that_starts_threads_on_import_is_imported_in_each_child(
    make_bench: MakeBench, skill_folder: WriteFolder
) -> None:
    handler = "import os\nHERE = os.getpid()\nasync def run(ctx, input):\n    return HERE == os.getpid()\n"
    thread = (
        "import threading, time\nthreading.Thread(target=time.sleep, args=(3600,), daemon=True).start()\n"
    )
    skill_folder("threads", manifest("threads"), thread + handler)
    root = skill_folder("without", manifest("without"), handler)
    bench = await make_bench(root)
    assert [await bench.value("threads"), await bench.value("without")] == [True, False]


async def test_loading_does_not_stop_the_loop(make_bench: MakeBench, skill_folder: WriteFolder) -> None:
    root = skill_folder("slow", manifest("slow"), "import time; time.sleep(0.3)\n" + RUN)
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0.01)

    ticking = asyncio.create_task(tick())
    began = time.monotonic()
    bench = await make_bench(root)
    assert time.monotonic() - began >= 0.3, "the skill was not tried"
    ticking.cancel()
    assert ticks >= 10
    assert await bench.value("slow", 1) == 1
