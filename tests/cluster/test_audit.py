"""The audit log on real nodes: every change of a caller is in it, on every node, and tampering shows."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from coterie.client import Cluster, Limit
from coterie.client.audit import AuditEntry
from coterie.node.cli.main import cli
from coterie.node.localcluster import LocalCluster
from coterie.node.security.audit_log import SUBJECT
from tests.cluster.conftest import READY_S, client_of, until
from tests.cluster.secured import A, bearer, secured_cluster
from tests.cluster.test_queue_api import kill_the_leader

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]


@pytest.fixture
def secured(tmp_path: Path) -> Iterator[LocalCluster]:
    with secured_cluster(tmp_path) as cluster:
        yield cluster


async def entries_on(secured: LocalCluster, node_id: str) -> list[AuditEntry]:
    """What the ledger of one node has."""
    async with client_of(secured, node_id) as client:
        return [entry async for entry in client.audit.entries()]


async def run(*arguments: str) -> tuple[int, Any]:
    """In a thread, because commands run loops of their own."""
    given = [*arguments, "--json"]
    done = await asyncio.to_thread(lambda: CliRunner().invoke(cli, given, standalone_mode=False))
    return int(done.return_value or 0), json.loads(done.stdout)


async def verified(secured: LocalCluster) -> tuple[int, Any]:
    tls_dir = str(secured.base_dir / "tls")
    return await run("audit", "verify", "--endpoint", secured.endpoints, "--tls-dir", tls_dir)


async def work(secured: LocalCluster, admin: Cluster) -> str:
    """Some calls of an admin and of a tenant; the id of the tenant's token."""
    made = await admin.security.create_token(["submitter"], tenant=A)
    async with bearer(secured, made.secret, A) as owner:
        jobs = [await owner.submit_task(type="echo", payload=n, request_id=f"r{n}") for n in range(20)]
        await jobs[0].wait(timeout=30)
        late = await owner.submit_task(type="echo", payload=0, start_delay="1h")
        await late.pause("later")
        await late.cancel("never")
    await admin.limits.set(Limit(id="keys", key="*", concurrent=9))
    await admin.limits.remove("keys")
    return made.id


async def test_every_change_is_recorded_and_the_same_on_all_nodes_after_kills(secured: LocalCluster) -> None:
    await secured.wait_ready(READY_S)
    async with client_of(secured) as admin:
        token_id = await work(secured, admin)
        secured.start_node(await kill_the_leader(secured, admin))
        await secured.wait_ready(READY_S)
        await work(secured, admin)
        logs = [await entries_on(secured, node_id) for node_id in secured.node_ids]
        assert logs[0] == logs[1] == logs[2]
        mine = [entry for entry in logs[0] if entry.principal == f"token:{token_id}"]
        assert {entry.tenant for entry in mine} == {A}
        methods = [entry.method.split("/")[1] for entry in mine]
        assert methods.count("PauseTask") == methods.count("CancelTask") == 1
        submitted = [entry.request_id for entry in mine if entry.target and entry.request_id.startswith("r")]
        assert set(submitted) == {f"r{n}" for n in range(20)}
        admins = {entry.method for entry in logs[0] if entry.principal == "user:admin"}
        assert admins == {"Security/CreateToken", "Limits/SetLimit", "Limits/DeleteLimit"}
        await admin.transfer_leadership()

        async def noted() -> bool:
            last = (await entries_on(secured, "node-1"))[-1]
            return last.method == "Cluster/TransferLeadership"

        await until(noted, "a call that is no command is recorded too")
    code, answer = await verified(secured)
    assert (code, [one["fault"] for one in answer["checked"]]) == (0, ["", "", ""])


DAMAGE = {
    "changed": (
        "UPDATE events SET record = CAST(replace(record, x'757365723a61', x'757365723a62') AS BLOB)"
        " WHERE task_id = ? AND sequence = 1",  # user:a becomes user:b
        "record 1 was changed",
    ),
    "broken": ("UPDATE events SET record = 'x' WHERE task_id = ? AND sequence = 2", "record 2 was changed"),
    "removed": ("DELETE FROM events WHERE task_id = ? AND sequence = 5", "record 5 is missing"),
    "reordered": (
        "UPDATE events SET record = (SELECT record FROM events AS other WHERE other.task_id = events.task_id"
        " AND other.sequence = 13 - events.sequence) WHERE task_id = ? AND sequence IN (6, 7)",
        "record 6 is missing",
    ),
    "cut off": ("DELETE FROM events WHERE task_id = ? AND sequence > 8", "are missing at the end"),
}


async def test_whoever_changes_the_ledger_of_a_node_is_found_out(
    secured: LocalCluster, tmp_path: Path
) -> None:
    await secured.wait_ready(READY_S)
    async with client_of(secured) as admin:
        await work(secured, admin)
    file = tmp_path / "audit.jsonl"
    tls = ("--endpoint", secured.endpoints, "--tls-dir", str(secured.base_dir / "tls"))
    assert (await run("audit", "export", "--out", str(file), *tls))[0] == 0
    assert (await run("audit", "verify", str(file)))[0] == 0
    await check_the_export(file)
    ledger = secured.base_dir / "data" / "node-2" / "ledger.db"  # of a running node: a restart would mend it
    written = len(await entries_on(secured, "node-2"))
    await until(lambda: asyncio.to_thread(holds, ledger, written), "the file has what the log has", 30)
    for what, (statement, fault) in DAMAGE.items():
        kept = await asyncio.to_thread(damage, ledger, statement)
        code, answer = await verified(secured)
        faults = [one["fault"] for one in answer["error"]["checked"]]
        assert (code, faults[0], faults[2]) == (1, "", "") and fault in faults[1], (what, faults)
        await asyncio.to_thread(mend, ledger, kept)
    code, answer = await verified(secured)
    assert code == 0, (secured.addresses, answer)


def holds(ledger: Path, count: int) -> bool:
    with contextlib.closing(sqlite3.connect(ledger, timeout=10)) as connection:
        found = connection.execute("SELECT count(*) FROM events WHERE task_id = ?", (SUBJECT,)).fetchone()
    return bool(found[0] == count)


def damage(ledger: Path, statement: str) -> list[Any]:
    """Returns the rows as they were."""
    with contextlib.closing(sqlite3.connect(ledger, timeout=10)) as connection, connection:
        kept = connection.execute("SELECT * FROM events WHERE task_id = ?", (SUBJECT,)).fetchall()
        assert connection.execute(statement, (SUBJECT,)).rowcount >= 1
    return kept


def mend(ledger: Path, rows: list[Any]) -> None:
    with contextlib.closing(sqlite3.connect(ledger, timeout=10)) as connection, connection:
        connection.execute("DELETE FROM events WHERE task_id = ?", (SUBJECT,))
        connection.executemany("INSERT INTO events VALUES(?, ?, ?, ?, ?)", rows)


async def check_the_export(file: Path) -> None:
    """The same for a file; `verify` takes the last line at its word unless it is told the head."""
    lines = file.read_text("utf-8").splitlines()  # noqa: ASYNC240
    moved = [lines[1], lines[0], *lines[2:]]
    for changed in (lines[:3] + lines[4:], moved, lines[:-2] + lines[-1:], lines[:-1]):
        file.write_text("\n".join(changed) + "\n", "utf-8")  # noqa: ASYNC240
        code, answer = await run("audit", "verify", str(file))
        assert (code, answer["error"]["reason"]) == (1, "AUDIT_BROKEN")
    file.write_text("\n".join(lines) + "\n", "utf-8")  # noqa: ASYNC240
    assert (await run("audit", "verify", str(file), "--head", "00" * 32))[0] == 1
