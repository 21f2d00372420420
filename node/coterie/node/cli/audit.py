"""`coterie audit export|verify`."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO

import click

from coterie.node.cli.failures import EXIT_TASK_FAILED, CommandFailed, Failure, bad_input
from coterie.node.cli.framework import WHOLE, LeafCommand
from coterie.node.cli.session import Session

if TYPE_CHECKING:
    from coterie.client.audit import AuditEntry, AuditHead
    from coterie.client.cluster import Cluster
    from coterie.core.audit import AuditRecord
    from coterie.node.cli.connect import Target


_NUMBERS: Final = ("sequence", "index", "at_ms")  # of a record; the rest of it is text
NO_RECORDS = "there are no records: who calls is recorded where security.auth is required, and nowhere else"


@click.command(cls=LeafCommand)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="New file, a JSON object a line.")
@click.option("--after", type=WHOLE, default=0, help="Leave out those up to this sequence.")
@click.pass_obj
def export(session: Session, out: Path, after: int) -> None:
    """Write the audit log to a file; its last line says what the cluster has agreed on about it.

    An export from the beginning can be checked later, without the cluster: `coterie audit verify FILE`."""
    if out.exists():
        raise bad_input("--out", f"{out}: is there already; choose another file")

    async def work(cluster: Cluster) -> tuple[int, AuditHead]:
        head, written = await cluster.audit.head(), 0
        with _new_file(out) as file:
            async for entry in cluster.audit.entries(after=after):
                if entry.sequence <= head.count:
                    file.write(json.dumps(asdict(entry)) + "\n")
                    written += 1
            file.write(json.dumps({"head": asdict(head)}) + "\n")
        return written, head

    written, head = session.call(work, patient=True)
    if not head.count:
        session.say(NO_RECORDS)
    document = {"file": out, "records": written, "head": asdict(head)}
    session.emit(document, lambda console: console.print(f"{out}: {written} records", soft_wrap=True))


@contextlib.contextmanager
def _new_file(path: Path) -> Iterator[TextIO]:
    """Gone again where it was not written to its end."""
    with path.open("x", encoding="utf-8") as file:
        try:
            yield file
        except BaseException:
            path.unlink(missing_ok=True)
            raise


@click.command(cls=LeafCommand)
@click.argument("file", required=False, type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--head", default="", metavar="HEX", help="Of a FILE: the digest it must end with.")
@click.pass_obj
def verify(session: Session, file: Path | None, head: str) -> None:
    """Check the audit log: every record there, in its place and unchanged.

    Without FILE: in the ledger of every node that --endpoint names, against what the cluster agreed on."""
    if head and file is None:
        raise bad_input("--head", "goes with FILE; a cluster says itself what its log must end with")
    found, others = (
        ([_check_file(file, head)], []) if file else asyncio.run(_check_nodes(session, session.target()))
    )
    if others:
        session.say(f"not checked: {', '.join(others)}; name every node with --endpoint")
    broken = [one for one in found if one["fault"]]
    if broken:
        text = "; ".join(f"{one['where']}: {one['fault']}" for one in broken)
        raise CommandFailed(
            Failure(EXIT_TASK_FAILED, "DATA_LOSS", text, "AUDIT_BROKEN", facts={"checked": found})
        )

    if not any(one["records"] for one in found):
        session.say(NO_RECORDS)

    def human(out: Any) -> None:
        for one in found:
            ends = f"; {one['head']}" if one["head"] else ""
            out.print(f"{one['where']}: {one['records']} records, all in place{ends}", soft_wrap=True)

    session.emit({"checked": found, "not_checked": others}, human)


async def _check_nodes(session: Session, target: Target) -> tuple[list[dict[str, Any]], list[str]]:
    """What was found at each address, and the nodes of the cluster that are at none of them."""
    addresses = [address.strip() for address in target.endpoints.split(",") if address.strip()]
    members: set[str] = set()
    asked: set[str] = set()
    found = []
    for address in addresses:
        async with session.connect(replace(target, endpoints=address, discover=False)) as cluster:
            status = await cluster.get_status(stale=True)
            members |= {node.id for node in status.nodes}
            asked.add(status.served_by)
            found.append(await _check_node(cluster, address))
    return found, sorted(members - asked)


async def _check_node(cluster: Cluster, address: str) -> dict[str, Any]:
    agreed = await cluster.audit.head()

    async def known() -> AsyncIterator[AuditRecord]:
        async for entry in cluster.audit.entries():
            if entry.sequence <= agreed.count:
                yield _record(entry)

    return await _check(address, known(), agreed.count, agreed.digest)


def _check_file(path: Path, head: str) -> dict[str, Any]:
    lines = list(_lines(path))
    agreed = _agreed(lines[-1].get("head")) if lines else None
    if agreed is None:
        fault = "the last line, which says what the log must end with, is missing"
        return {"where": str(path), "records": max(0, len(lines)), "head": "", "fault": fault}
    count, digest = agreed
    if head and head.lower() != digest:
        fault = f"ends with {digest}, not with {head}"
        return {"where": str(path), "records": len(lines) - 1, "head": head, "fault": fault}

    async def known() -> AsyncIterator[AuditRecord]:
        for number, line in enumerate(lines[:-1], 1):
            try:
                yield _written(line)
            except (TypeError, ValueError, KeyError) as error:
                raise bad_input("FILE", f"{path}: line {number} is no record: {error}") from error

    return asyncio.run(_check(str(path), known(), count, digest))


def _agreed(said: object) -> tuple[int, str] | None:
    """How many records, and the digest of the last one; None where that is not what is said."""
    count, digest = (said.get("count"), said.get("digest")) if isinstance(said, dict) else (None, None)
    if not isinstance(count, int) or not isinstance(digest, str):
        return None
    try:
        return count, bytes.fromhex(digest).hex()
    except ValueError:
        return None


def _written(line: Mapping[str, Any]) -> AuditRecord:
    """Raises TypeError, ValueError, KeyError."""
    from coterie.core.audit import AuditRecord

    for name, value in line.items():
        if not isinstance(value, int if name in _NUMBERS else str):
            raise TypeError(f"{name} is {value!r}")
    return AuditRecord(**{**line, "digest": bytes.fromhex(line["digest"])})


def _lines(path: Path) -> Iterator[Mapping[str, Any]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                found = json.loads(line.decode())
            except (ValueError, RecursionError) as error:
                raise bad_input("FILE", f"{path}: line {number} is no JSON: {error}") from error
            yield found if isinstance(found, dict) else {}


async def _check(where: str, records: AsyncIterator[AuditRecord], count: int, digest: str) -> dict[str, Any]:
    """What was found; `fault` is empty when all is well."""
    from coterie.core.audit import Check

    check, fault = Check(), ""
    async for record in records:
        fault = check.add(record)
        if fault:
            break
    fault = fault or check.end(count, bytes.fromhex(digest))
    return {"where": where, "records": check.count, "head": digest, "fault": fault}


def _record(entry: AuditEntry) -> AuditRecord:
    from coterie.core.audit import AuditRecord

    return AuditRecord(**{**asdict(entry), "digest": bytes.fromhex(entry.digest)})
