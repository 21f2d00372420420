"""What an untrusted skill can reach: nothing but its own folder, its own input, and the hosts of its list."""

from __future__ import annotations

import asyncio
import json
import os
import textwrap
from pathlib import Path

import pytest

from coterie.node.skillhost import SkillHost, SkillHostStats, SkillJob
from coterie.node.skillhost.confined import ConfinedPool
from coterie.node.skillhost.nouns import ConfinedSkill, SandboxOptions
from coterie.node.skillhost.zygote import Zygote
from coterie.skills.sandbox import REQUIRED, Layer, identity
from tests.skills.attack_range import (
    NOT_WITHOUT_WALLS,
    SECRET,
    SECRET_NAME,
    attack_names,
    attack_range,
    attempt,
    try_all,
    won,
)
from tests.skills.attacks import kit, owner
from tests.skills.conftest import MakeBench
from tests.skills.errands import errands
from tests.skills.other_user import as_nobody
from tests.skills.support import RecordingPort, options, until

OWNERS = [name for name, attack in kit.ATTACKS.items() if attack.__module__ == owner.__name__]
# Attacks that a kernel or a container may well stop without us; the others must win where there is no wall.
STOPPED_ELSEWHERE = {
    "open_by_handle", "proc_own_memory_map", "exec_from_memory", "hardlink_to_secret", "raw_socket",
    "packet_socket", "resolve", "metadata_address", "become_root", "chroot", "io_uring", "bpf", "keyring",
    "other_machine_calls", "semaphores", "shared_memory", "ptrace_node", "read_memory_of_zygote",
    "new_namespace", "loopback_by_proxy", "name_of_loopback_by_proxy", "mapped_loopback_by_proxy",
    "inherited_descriptors", "many_descriptors", "flood_of_output", "big_result", "list_home", "stolen_page",
    "forge_the_lease", "queue_signal_to_node", "mark_a_file", "read_a_mark", "flags_of_a_file",
    "lease_of_a_file", "mode_by_place", "list_mounts", "contexts_of_the_machine",
}  # fmt: skip


def confined(folder: Path, source: str, **changes: object) -> ConfinedSkill:
    """A skill of these lines."""
    folder.mkdir(exist_ok=True)
    folder.chmod(0o755)
    (folder / "handler.py").write_text(textwrap.dedent(source))
    fields: dict[str, object] = {"folder": folder, "handler": "handler.py:run", "name": "guest"}
    return ConfinedSkill(**(fields | changes))  # type: ignore[arg-type]


async def test_no_attack_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SECRET_NAME, SECRET)
    async with attack_range(tmp_path) as (host, told):
        findings = await try_all(host, told)
        after = await attempt(host, {**told, "attack": "secret_in_environment"}, None)
    assert [finding for finding in findings if finding.won] == []
    assert len(findings) == 2 * len(attack_names())
    assert [finding for finding in findings if not finding.made] == []  # that would prove nothing
    assert after.code == "UNKNOWN_SKILL"  # the host still answers, and trusts no skill that it was not given
    assert os.listdir(tmp_path / "scratch") == ["neighbour"]


def test_no_attack_wins_on_a_node_that_is_nobody() -> None:
    done = as_nobody("tests.skills.attack_range")
    assert done.returncode == 0, done.stderr[-2_000:]
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert len([line for line in said if "attack" in line]) == 2 * len(attack_names())
    assert all(line["made"] for line in said if "attack" in line)
    assert {line["layer"] for line in said if line.get("active")} >= set(REQUIRED)


@pytest.mark.parametrize("version", [2, 5])
def test_no_attack_of_an_owner_wins_on_an_older_kernel(version: int) -> None:
    done = as_nobody("tests.skills.attack_range", f"--landlock-abi={version}", *OWNERS)
    assert done.returncode == 0, done.stderr[-2_000:]
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert next(line for line in said if line.get("layer") == "landlock")["detail"] == (
        f"files; ABI {version}, signals not scoped"
    )
    assert [line["attack"] for line in said if line.get("made")] == [
        one for name in OWNERS for one in (name, name)
    ]


async def test_without_the_walls_the_same_attacks_win(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SECRET_NAME, SECRET)
    monkeypatch.chdir(tmp_path)  # where these runs leave what they make
    folder = Path(__file__).with_name("attacks")
    async with attack_range(tmp_path, folder) as (host, told):
        lost = []
        for name in attack_names():
            if name in NOT_WITHOUT_WALLS | STOPPED_ELSEWHERE:
                continue
            outcome = await attempt(host, {**told, "attack": name}, None)
            if not won(outcome):
                lost.append((name, outcome.message))
    assert not lost


async def test_a_confined_run_has_its_own_folder_and_nothing_in_its_environment(
    make_bench: MakeBench, tmp_path: Path
) -> None:
    bench = await make_bench()
    skill = confined(
        tmp_path / "guest",
        """
        import os, tempfile
        from pathlib import Path

        async def run(ctx, given):
            with tempfile.NamedTemporaryFile("w", delete=False) as file:
                file.write("kept")
            here = await ctx.step("look", os.getcwd)
            return {"here": here, "env": sorted(os.environ), "mine": os.listdir(), "uid": os.getuid(),
                    "read": Path(file.name).read_text(), "home": os.environ["HOME"]}
        """,
    )
    port = RecordingPort()
    seen = json.loads((await bench.run("guest", port=port, confined=skill)).result)
    again = await bench.value("guest", confined=skill)
    assert seen["env"] == ["HOME", "LANG", "PATH", "TMPDIR"]
    assert len(seen["mine"]) == 1 and seen["read"] == "kept"
    assert seen["here"] == seen["home"] != again["here"]
    assert json.loads(port.steps["look"]) == seen["here"]
    if os.geteuid() == 0:
        assert seen["uid"] >= identity.OWN_UIDS_FROM and seen["uid"] != again["uid"]
    await until(lambda: not Path(seen["here"]).exists(), "the folder of a run that is over is removed")


async def test_input_is_typed_in_the_sandbox_too(make_bench: MakeBench, tmp_path: Path) -> None:
    bench = await make_bench()
    skill = confined(
        tmp_path / "guest",
        """
        from pydantic import BaseModel

        class Args(BaseModel):
            count: int

        def run(ctx, given: Args):
            return given.count * 2
        """,
    )
    assert await bench.value("guest", {"count": 4}, confined=skill) == 8
    refused = await bench.run("guest", {"count": "many"}, confined=skill)
    assert refused.code == "BAD_INPUT" and "count" in refused.message


async def test_a_skill_that_needs_more_than_this_machine_has_is_refused(tmp_path: Path) -> None:
    skill = confined(tmp_path / "guest", "def run(ctx, given): return 1")
    known = options()
    for gone in REQUIRED:
        layers = [Layer(name, name != gone, "kernel too old") for name in REQUIRED]
        pool = ConfinedPool(known, Zygote.launch(known, confining=True), SkillHostStats(), layers)
        await pool.start()
        try:
            outcome = await pool.run(_job(skill), RecordingPort())
        finally:
            await pool.stop()
        assert outcome.code == "SANDBOX_MISSING" and gone in outcome.message and "old" in outcome.message


async def test_a_confined_run_ends_with_the_lease(make_bench: MakeBench, tmp_path: Path) -> None:
    bench = await make_bench()
    skill = confined(
        tmp_path / "guest",
        """
        import time

        async def run(ctx, given):
            await ctx.progress(1)
            time.sleep(60)
        """,
    )
    bench.host.extend_lease(60_000)
    task, _ = await bench.begin("guest", confined=skill)
    bench.host.extend_lease(0)
    assert (await asyncio.wait_for(task, 20)).kind == "lease_lost"


async def test_the_zygote_of_confined_skills_comes_back(make_bench: MakeBench, tmp_path: Path) -> None:
    bench = await make_bench()
    skill = confined(tmp_path / "guest", "def run(ctx, given): return given")
    assert await bench.value("guest", 1, confined=skill) == 1
    pool = bench.host._confined
    assert pool is not None
    os.kill(pool.zygote_pid, 9)
    await until(lambda: bench.host.stats.restarts == 1, "the loss is noticed")
    assert await bench.value("guest", 2, confined=skill) == 2


async def test_the_network_is_the_list(make_bench: MakeBench, tmp_path: Path) -> None:
    async def page(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = (await reader.readuntil(b"\r\n\r\n")).decode()
        body = asked.splitlines()[0].encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        writer.close()

    server = await asyncio.start_server(page, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    source = """
        import http.client, os, urllib.error, urllib.request

        def run(ctx, given):
            port, found = given, {}
            with urllib.request.urlopen(f"http://localhost:{port}/plain?x=1") as answer:
                found["plain"] = answer.read().decode()
            tunnel = http.client.HTTPConnection("127.0.0.1", 3128)
            tunnel.set_tunnel("localhost", port)
            tunnel.request("GET", "/tunnel")
            found["tunnel"] = tunnel.getresponse().read().decode()
            for host in ("127.0.0.1", "example.org", "169.254.169.254"):
                try:
                    urllib.request.urlopen(f"http://{host}:{port}/", timeout=5)
                except urllib.error.HTTPError as error:
                    found[host] = error.code
            return found
    """
    skill = confined(tmp_path / "guest", source, network=(f"localhost:{port}", f"169.254.169.254:{port}"))
    opened = SandboxOptions(inside_networks=("127.0.0.0/8", "169.254.0.0/16", "::1/128"))
    try:
        bench = await make_bench(sandbox=opened)
        assert await bench.value("guest", port, confined=skill) == {
            "plain": "GET /plain?x=1 HTTP/1.1",
            "tunnel": "GET /tunnel HTTP/1.1",
            "127.0.0.1": 403,
            "example.org": 403,
            "169.254.169.254": 403,
        }
        closed = await make_bench()
        refused = await closed.run("guest", port, confined=skill)
        assert refused.code == "SKILL_FAILED" and "403" in refused.message
    finally:
        server.close()


async def test_a_run_without_a_user_of_its_own_owns_nothing_of_the_node(
    make_bench: MakeBench, tmp_path: Path
) -> None:
    bench = await make_bench(sandbox=SandboxOptions(own_user=False))
    skill = confined(
        tmp_path / "guest",
        """
        import os

        def run(ctx, path):
            os.chmod(path, 0o666)
            os.utime(path, (1, 1))
            return os.getuid()
        """,
    )
    key = tmp_path / "key"
    key.touch(mode=0o600)
    before = key.stat()
    assert await bench.value("guest", str(key), confined=skill) == os.geteuid() == before.st_uid
    after = key.stat()
    assert (after.st_mode, after.st_mtime_ns) == (before.st_mode, before.st_mtime_ns)


async def test_ordinary_programs_run_in_the_sandbox() -> None:
    found = await errands()
    assert len(found) >= 17 and found == dict.fromkeys(found, True)


@pytest.mark.parametrize("version", [None, 2])
def test_ordinary_programs_run_in_the_sandbox_of_a_node_that_is_nobody(version: int | None) -> None:
    done = as_nobody("tests.skills.errands", *([f"--landlock-abi={version}"] if version else []))
    assert done.returncode == 0, done.stderr[-2_000:]
    found = json.loads(done.stdout)
    assert len(found) >= 17 and found == dict.fromkeys(found, True)


def _job(skill: ConfinedSkill) -> SkillJob:
    return SkillJob("t", 1, "guest", b"null", {}, None, 0, confined=skill)


async def test_a_host_without_untrusted_skills_starts_no_second_zygote() -> None:
    host = SkillHost.spawn(options())
    await host.start()
    assert host._confined is None
    assert {layer.name for layer in host.layers} >= set(REQUIRED)
    await host.stop()
