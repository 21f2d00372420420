"""The shipped workflows on real nodes: each ends as it must, in quiet and while nodes are killed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from coterie.client import Workflow
from coterie.node.localcluster import LocalCluster
from tests.chaos.workflows import field as place
from tests.chaos.workflows.__main__ import chaos
from tests.chaos.workflows.cases import CASES, WORKFLOWS, Case
from tests.cluster.conftest import READY_S, client_of

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]
Field = tuple[LocalCluster, Path]
DIFFERENT = list({(case.workflow, case.title): case for case in CASES}.values())


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    with place.field(tmp_path_factory.mktemp("field")) as found:
        asyncio.run(_prepared(found[0]))
        yield found


async def _prepared(cluster: LocalCluster) -> None:
    await cluster.wait_ready(READY_S)
    async with client_of(cluster) as client:
        await place.prepared(client)


def test_every_shipped_file_is_run() -> None:
    assert {path.stem for path in WORKFLOWS.glob("*.yaml")} == {case.workflow for case in CASES}


@pytest.mark.parametrize("case", DIFFERENT, ids=lambda case: f"{case.workflow}: {case.title}")
async def test_a_shipped_workflow_ends_as_it_must(nodes: Field, case: Case) -> None:
    cluster, witness = nodes
    async with client_of(cluster) as client:
        job = await place.begun(client, case)
        assert await place.faults_of(client, job, case, 60.0) == []
        assert await place.ran_again(client, witness) == []


async def test_a_judge_chooses_among_the_answers_of_agents(nodes: Field) -> None:
    agents = ["agent-arch-003", "agent-pm-002"]
    flow = Workflow("judged")
    flow.agent("best", *agents, join="llm-judge", input="Name the system")
    async with client_of(nodes[0]) as client:
        job = await client.run_workflow(flow)
        assert (await job.wait(timeout="60s"))["best"]["agent"] == "agent-pm-002"
        judge = await client.job(f"{job.id}~best~2").get()
        assert (judge.type, judge.state) == ("llm", "SUCCEEDED")


async def test_they_end_as_they_must_while_nodes_are_killed(nodes: Field) -> None:
    cluster, witness = nodes
    runs = 2 * len(CASES)
    figures = await chaos(cluster, witness, runs, width=2, every_s=1.0, sparing=True)
    assert figures.faults == [] and figures.kills > 0 and figures.runs == runs
