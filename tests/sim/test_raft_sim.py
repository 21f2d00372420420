"""The simulator itself: clean runs stay clean, a seed is a run, and planted bugs are found."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from coterie.core.ports import MoveMember, RemoveMember
from coterie.raft.journal import FIRST_INDEX
from coterie.raft.member import Member
from coterie.raft.storing import WRITE_LOG
from tests.sim.raft import planted
from tests.sim.raft.__main__ import main
from tests.sim.raft.cuts import Cuts
from tests.sim.raft.nemesis import JOBS, KINDS, OF_TRANSFERS
from tests.sim.raft.planted import run_again, simulate_planted
from tests.sim.raft.run import Report, _lose_a_majority, simulate
from tests.sim.raft.timeline import SECOND
from tests.sim.raft.totals import PER_RUN_MIN, REPEATED, Totals, is_repeated
from tests.sim.raft.world import World

ROOT = Path(__file__).resolve().parents[2]
SIZES = [3, 5]


@pytest.mark.parametrize("seed", range(60))
def test_a_run_keeps_every_promise(seed: int) -> None:
    report = simulate(seed, SIZES[seed % 2])
    assert report.violation == ""


def test_an_exception_of_the_engine_is_a_violation(monkeypatch: pytest.MonkeyPatch) -> None:
    """It must not end a search among thousands of seeds without a word of which one it was."""

    def broken(self: Member, index: int) -> int:
        raise IndexError(f"no entry {index}")

    monkeypatch.setattr(Member, "_base_to_keep", broken)
    found = [simulate(seed, SIZES[seed % 2]).violation for seed in range(4)]
    assert any("raised IndexError: no entry" in violation for violation in found)


def test_the_runs_do_some_work() -> None:
    totals = Totals(1_000, 1_000, "3,5", "", "")
    for seed in range(1_000, 1_040):
        totals.add(simulate(seed, SIZES[seed % 2]))
    least = {"committed": 3_000, "reads": 1_000, "terms": 100, "switch snapshot": 400, "check snapshot": 20}
    least |= {"copy log": 1_000, "replace log": 400, "tidy log": 400}
    least |= {"runs with the core machine": 1, "runs with encoded frames": 4, "starts": 500}
    least |= {"turned away: NoSpace": 100, "turned away: TooManyProposals": 100}
    assert {name: totals.counts[name] for name in least if totals.counts[name] < least[name]} == {}
    changes = ("replace", "move", "two at once", "under cuts", "changes committed", "changes refused")
    assert set(totals.faults) >= {*KINDS, "cut_for_good", *(f"members: {name}" for name in changes)}
    assert totals.runs_with.keys() == set(KINDS)


@pytest.mark.parametrize("plant", ["change-before-commit", "changes-at-once"])
def test_random_runs_see_changes_of_the_members_that_come_too_early(plant: str) -> None:
    """Their directed tests do as well; here nobody knows beforehand what to look at."""
    assert any(simulate_planted(SIZES, plant, seed).violation for seed in range(80))


def test_a_node_that_moved_is_called_where_the_log_says_that_it_is() -> None:
    world = World(1, 3)
    assert world.run_until(2 * SECOND, stop=lambda: bool(world.leader()))
    moved, other = world.nodes["n1"], world.nodes["n3"]
    world.run_until(world.now_us + SECOND)
    assert other.dials(moved) and not moved.dials(other), "those with larger ids call"
    world.kill("n1")
    moved.address = "elsewhere"
    world.start("n1")
    world.run_until(world.now_us + SECOND)
    assert not other.dials(moved) and moved.dials(other), "nobody else knows"
    wish = world.change(world.leader(), MoveMember("n1", "elsewhere"), 1.0)
    world.run_until(world.now_us + SECOND)
    assert wish.answers[0] in world.logs.groups
    assert other.dials(moved) and not moved.dials(other)


def test_the_nemesis_kills_at_every_job_that_the_engine_gives_to_the_disk() -> None:
    trees = [ast.parse(path.read_text()) for path in (ROOT / "consensus/coterie/raft").glob("*.py")]
    calls = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)]
    asked = [
        call.args[0] for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr == "_job"
    ]
    names = {ast.literal_eval(name) for name in asked if not isinstance(name, ast.Name)} | {WRITE_LOG}
    assert {name.id for name in asked if isinstance(name, ast.Name)} == {"WRITE_LOG"}
    assert sorted(names) == sorted(JOBS), "of the engine, and of the nemesis"
    assert set(OF_TRANSFERS) < names


def test_a_snapshot_that_arrives_damaged_is_looked_at_where_it_comes_from_and_sent_again() -> None:
    world = World(1, 3)
    assert world.run_until(2 * SECOND, stop=lambda: bool(world.leader()))
    leader = world.leader()
    last = next(node_id for node_id in world.ids if node_id != leader)
    for other in world.ids:
        if other != last:
            world.block(other, last)
    for number in range(30):
        world.propose(leader, number.to_bytes(8, "big") + bytes(500), 1.0)
        world.run_until(world.now_us + SECOND // 20)
    world.nodes[leader].member.want_snapshot()
    world.run_until(world.now_us + SECOND)
    world.nodes[last].spoils = True
    world.unblock_all()
    world.run_until(world.now_us + 2 * SECOND)
    assert world.nodes[last].jobs_done["transfers spoilt"] == 1
    assert world.nodes[leader].jobs_done["check own snapshot"] == 1
    assert world.nodes[last].jobs_done["read snapshot"] > 0
    assert world.nodes[last].member.applied_index == world.nodes[leader].member.applied_index


@pytest.mark.parametrize("seed", [7, 8])
def test_one_seed_is_one_run_whatever_the_hash_seed(tmp_path: Path, seed: int) -> None:
    paths = os.pathsep.join(str(ROOT / room) for room in ("proto", "consensus", "node", "skills", "."))
    outputs = {
        subprocess.run(
            [sys.executable, "-m", "tests.sim.raft", "--seed", str(seed), "--traces", str(tmp_path)],
            cwd=ROOT,
            env={"PYTHONPATH": paths, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("0", "1")
    }
    assert len(outputs) == 1
    assert simulate(seed, SIZES[seed % 2]).digest in outputs.pop()


def test_some_seeds_run_twice_and_a_run_that_differs_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    twice = [seed for seed in range(4_000) if is_repeated(seed)]
    assert len(twice) == 8 and {SIZES[seed % 2] for seed in twice} == set(SIZES)
    report, runs = simulate(twice[0], 3), count()
    assert run_again(report, SIZES, "") == replace(report, counts=report.counts | {REPEATED: 1})

    def undecided(seed: int, *_: object) -> Report:
        return replace(report, seed=seed, digest=f"another one, {next(runs)}")

    monkeypatch.setattr(planted, "simulate", undecided)
    assert main(["--first", str(twice[0]), "--seeds", "1", "--jobs", "1", "--traces", str(tmp_path)]) == 1
    assert "one seed, two runs: another one, 0, another one, 1" in capsys.readouterr().out
    assert main(["--first", str(twice[0] + 1), "--seeds", "1", "--jobs", "1"]) == 0


def test_a_failure_is_printed_with_its_replay_and_traced(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    seed = next(seed for seed in range(120) if simulate_planted(SIZES, "hasty-retry", seed).violation)
    arguments = ["--first", str(seed), "--seeds", "1", "--jobs", "1", "--plant", "hasty-retry"]
    assert main([*arguments, "--traces", str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    assert f"--seed {seed} --nodes 3,5 --plant hasty-retry" in printed
    assert "1 violations" in printed
    trace = (tmp_path / f"seed-{seed}-hasty-retry.txt").read_text()
    assert "VIOLATION" in trace.splitlines()[-1]
    assert "Append(" in trace
    assert main(["--seed", str(seed), "--plant", "hasty-retry", "--traces", str(tmp_path)]) == 1


def test_a_long_run_goes_on_where_it_was_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    half, whole = tmp_path / "half.json", tmp_path / "whole.json"
    for seeds in ("3", "5"):
        assert main(["--seeds", seeds, "--jobs", "1", "--summary", str(half)]) == 0
    assert main(["--seeds", "5", "--jobs", "1", "--summary", str(whole)]) == 0
    first, second = Totals.load(half), Totals.load(whole)
    first.seconds = second.seconds = 0.0
    assert first == second
    assert "No promise was broken." in half.with_suffix(".md").read_text()
    assert main(["--seeds", "6", "--nodes", "3", "--jobs", "1", "--summary", str(half)]) == 2
    assert "would mix two things" in capsys.readouterr().err


def _remove(world: World, node_id: str) -> None:
    leader, answers = world.nodes[world.leader()], list[object]()
    leader.member.change(RemoveMember(node_id), 2.0, answers.append)
    world._kick(leader)
    assert world.run_until(world.now_us + 3 * SECOND, stop=lambda: bool(answers)), answers
    assert world.run_until(world.now_us + 3 * SECOND, stop=lambda: world.nodes[node_id].gone)


def _enough(seeds: int) -> Totals:
    counts = {"runs": seeds, REPEATED: sum(map(is_repeated, range(seeds)))}
    counts |= {name: low * seeds for name, low in PER_RUN_MIN.items()}
    counts |= {f"deaths in {job}": 1 for job in JOBS}
    return Totals(0, seeds, "3,5", "", "", faults=dict.fromkeys(KINDS, 1), counts=counts)


@pytest.mark.parametrize("name", ["runs", REPEATED, "committed", "reads", "deaths in check snapshot", "lag"])
def test_runs_that_do_too_little_are_no_success(name: str) -> None:
    totals = _enough(2_000)
    assert totals.shortfalls(2_000) == []
    where = totals.faults if name in KINDS else totals.counts
    where[name] -= 1
    assert len(totals.shortfalls(2_000)) == 1


def test_a_few_runs_need_not_have_seen_everything() -> None:
    totals = Totals(1, 41, "3,5", "", "", counts={"runs": 40})
    assert totals.shortfalls(40) == [] and totals.shortfalls(41) != []
    assert Totals(1, 1, "3,5", "", "").shortfalls(0) == ["0 runs of 0"]


def test_no_runs_end_with_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seeds", "0", "--jobs", "1"]) == 1
    assert "too little was done: 0 runs of 0" in capsys.readouterr().err


def test_the_disks_of_all_who_are_left_are_not_lost_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody would be left who knows that the group has begun: its founders may then begin another."""
    world = World(1, 5)
    assert world.run_until(2 * SECOND, stop=lambda: bool(world.leader()))
    for node_id in [node_id for node_id in world.ids if node_id != world.leader()][:2]:
        _remove(world, node_id)
    left = [node_id for node_id in world.ids if not world.nodes[node_id].gone]
    disks = [world.nodes[node_id].disk for node_id in left]
    monkeypatch.setattr(world.rng, "sample", lambda founders, most: left[:most])
    _lose_a_majority(world)
    assert len(left) == 3 and [world.nodes[node_id].disk for node_id in left] == disks
    monkeypatch.setattr(world.rng, "sample", lambda founders, most: founders[:most])
    _lose_a_majority(world)
    assert world.nodes[world.ids[0]].disk not in disks, "of others they are"


def test_a_lasting_cut_leaves_one_who_holds_data_among_the_whole() -> None:
    """The first leader was killed before anybody else had an entry, and came back: blank nodes wait for it,
    and may hear of it without being able to reach it (seed 2086136 of an older simulator)."""
    world = World(1, 3)
    assert world.run_until(2 * SECOND, stop=lambda: bool(world.leader()))
    leader = world.leader()
    assert [n for n in world.ids if world.nodes[n].member._log.last_index > FIRST_INDEX] == [leader]
    for _ in range(20):
        assert leader not in Cuts(world, lambda: b"").make()


def test_where_all_founders_were_replaced_none_is_lost() -> None:
    world = World(1, 3)
    world.options = {node_id: replace(one, peers=(), join=True) for node_id, one in world.options.items()}
    _lose_a_majority(world)
    assert world.now_us > 0
