"""`coterie lock …`, `coterie kv …` and `coterie bus …`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import click

from coterie.node.cli.framework import DURATION, WHOLE, LeafCommand
from coterie.node.cli.payloads import read_payload
from coterie.node.cli.session import Session
from coterie.node.cli.submit import LabelType
from coterie.node.cli.text import echo

if TYPE_CHECKING:
    from rich.console import Console

    from coterie.client.bus import Group, Topic
    from coterie.client.cluster import Cluster
    from coterie.client.keys import KeyEntry
    from coterie.client.locks import LockInfo

# --- locks


@click.command("list", cls=LeafCommand)
@click.argument("prefix", default="")
@click.pass_obj
def list_locks(session: Session, prefix: str) -> None:
    """List the locks that are held, who holds them and who waits."""

    async def work(cluster: Cluster) -> list[LockInfo]:
        return await cluster.locks.list(prefix)

    found = session.call(work)
    session.emit({"locks": found}, lambda out: _print_locks(out, found))


@click.command(cls=LeafCommand)
@click.argument("name")
@click.option("--ttl", type=DURATION, default=30.0, help="Of the lease, which nobody renews. [30s]")
@click.option("--wait", type=DURATION, default=0.0, help="So long in the queue. [not at all]")
@click.option("--owner", default="", help="The same owner gets the same lock again. Default: a new one.")
@click.pass_obj
def acquire(session: Session, name: str, ttl: float, wait: float, owner: str) -> None:
    """Take the lock NAME. Prints the fencing token."""

    async def work(cluster: Cluster) -> LockInfo:
        return await cluster.locks.acquire(name, ttl=ttl, wait=wait, owner=owner)

    found = session.call(work, patient=wait > 0)
    session.emit({"lock": found}, lambda out: click.echo(found.token))


@click.command(cls=LeafCommand)
@click.argument("name")
@click.argument("fence", metavar="TOKEN", type=WHOLE)
@click.pass_obj
def release(session: Session, name: str, fence: int) -> None:
    """Let go of the lock NAME, held by TOKEN. With the token of `lock list` an operator frees a stuck one."""

    async def work(cluster: Cluster) -> bool:
        return await cluster.locks.release(name, fence)

    released = session.call(work)
    text = f"{name} is free" if released else f"{name} was not held by token {fence}"
    session.emit({"released": released}, lambda out: out.print(text))


def _print_locks(out: Console, found: list[LockInfo]) -> None:
    from coterie.node.cli.output import table

    rows = [
        (one.name, one.task or one.owner, str(one.token), f"{one.left:.1f} s", str(len(one.waiters)))
        for one in found
    ]
    columns = ("LOCK", "HOLDER", "TOKEN", "LEASE", "WAITING")
    out.print(table(columns, rows, right=("TOKEN", "LEASE", "WAITING")) if rows else "no locks")


# --- keys


@click.command(cls=LeafCommand)
@click.argument("key")
@click.pass_obj
def get(session: Session, key: str) -> None:
    """Print the value of KEY."""
    from coterie.client.errors import NotFound
    from coterie.node.cli.text import value_text

    async def work(cluster: Cluster) -> KeyEntry:
        entry = await cluster.kv.entry(key)
        if entry is None:
            raise NotFound(f"no key {key!r}", code="NOT_FOUND", reason="KEY_NOT_FOUND")
        return entry

    found = session.call(work)
    session.emit({"entry": found}, lambda out: click.echo(value_text(found.value)))


@click.command(cls=LeafCommand)
@click.argument("key")
@click.argument("value", metavar="JSON|@FILE|-")
@click.option("--ttl", type=DURATION, help="Then it is gone.")
@click.option("--expect", type=WHOLE, help="Only if the key is at this version; 0: if it does not exist.")
@click.option("--request-id", default="", help="The same id sets it once.")
@click.pass_obj
def put(
    session: Session, key: str, value: str, ttl: float | None, expect: int | None, request_id: str
) -> None:
    """Set KEY. Prints the new version."""
    given = read_payload(value, "VALUE")

    async def work(cluster: Cluster) -> int:
        return await cluster.kv.put(key, given, ttl=ttl, expected_version=expect, request_id=request_id)

    version = session.call(work)
    session.emit({"key": key, "version": version}, lambda out: click.echo(version))


@click.command(cls=LeafCommand)
@click.argument("key")
@click.option("--expect", type=WHOLE, help="Only if the key is at this version.")
@click.pass_obj
def delete(session: Session, key: str, expect: int | None) -> None:
    """Remove KEY."""

    async def work(cluster: Cluster) -> bool:
        return await cluster.kv.delete(key, expected_version=expect)

    was_there = session.call(work)
    text = f"{key} is removed" if was_there else f"{key} was not there"
    session.emit({"key": key, "deleted": was_there}, lambda out: out.print(text))


@click.command("list", cls=LeafCommand)
@click.argument("prefix", default="")
@click.pass_obj
def list_keys(session: Session, prefix: str) -> None:
    """List the keys that begin with PREFIX."""

    async def work(cluster: Cluster) -> list[KeyEntry]:
        return [entry async for entry in cluster.kv.list(prefix)]

    found = session.call(work)
    session.emit({"entries": found}, lambda out: _print_keys(out, found))


def _print_keys(out: Console, found: list[KeyEntry]) -> None:
    from coterie.node.cli.output import table
    from coterie.node.cli.text import one_line, value_text

    rows = [(one.key, str(one.version), one_line(value_text(one.value), 60)) for one in found]
    out.print(table(("KEY", "VERSION", "VALUE"), rows, right=("VERSION",)) if rows else "no keys")


@click.command(cls=LeafCommand)
@click.argument("prefix", default="")
@click.option("--count", type=WHOLE, default=0, help="End after so many changes.")
@click.option("--after", "after", type=WHOLE, default=0, help="Only what came after this version.")
@click.pass_obj
def watch(session: Session, prefix: str, count: int, after: int) -> None:
    """Print the keys that begin with PREFIX, then each change. --timeout bounds it."""
    from coterie.node.cli.text import one_line, value_text

    def line(one: Any) -> str:
        value = one_line(value_text(one.value), 200) if one.kind == "put" else ""
        return f"{one.version} {one.kind} {one.key} {value}".rstrip()

    found = _follow(session, lambda cluster: cluster.kv.watch(prefix, after_version=after), count, line)
    session.emit({"changes": found}, lambda out: None)


# --- topics


@click.command(cls=LeafCommand)
@click.argument("topic")
@click.argument("body", metavar="[JSON|@FILE|-]", required=False)
@click.option("--header", "headers", type=LabelType(), multiple=True, help="Repeatable.")
@click.option("--request-id", default="", help="The same id publishes it once.")
@click.pass_obj
def pub(
    session: Session, topic: str, body: str | None, headers: tuple[tuple[str, str], ...], request_id: str
) -> None:
    """Publish a message. Prints its position."""
    given = read_payload(body, "BODY")

    async def work(cluster: Cluster) -> int:
        return await cluster.bus.publish(topic, given, headers=dict(headers), request_id=request_id)

    position = session.call(work)
    session.emit({"topic": topic, "position": position}, lambda out: click.echo(position))


@click.command(cls=LeafCommand)
@click.argument("pattern")
@click.option("--after", type=WHOLE, help="From behind this position; 0: everything that is kept.")
@click.option("--count", type=WHOLE, default=0, help="End after so many messages.")
@click.pass_obj
def sub(session: Session, pattern: str, after: int | None, count: int) -> None:
    """Print the messages under PATTERN: a.b, a.* for any one word, a.> for one or more.

    --timeout bounds it.
    """
    from coterie.client.bus import MessageGap
    from coterie.node.cli.text import one_line, value_text

    def line(one: Any) -> str:
        if isinstance(one, MessageGap):
            return f"{one.up_to} {one.topic} (messages up to here are not kept any more)"
        return f"{one.position} {one.topic} {one_line(value_text(one.body), 1_000)}"

    found = _follow(session, lambda cluster: cluster.bus.subscribe(pattern, after=after), count, line)
    session.emit({"messages": found}, lambda out: None)


@click.command(cls=LeafCommand)
@click.argument("pattern", default="")
@click.pass_obj
def topics(session: Session, pattern: str) -> None:
    """List the topics, and the groups of consumers."""

    async def work(cluster: Cluster) -> tuple[list[Topic], list[Group]]:
        return await cluster.bus.topics(pattern), await cluster.bus.groups()

    found, groups = session.call(work)
    session.emit({"topics": found, "groups": groups}, lambda out: _print_topics(out, found, groups))


@click.command(cls=LeafCommand)
@click.argument("topic")
@click.option("--count", "kept_count", type=WHOLE, default=0, help="Messages. [1000]")
@click.option("--bytes", "kept_bytes", type=WHOLE, default=0, help="Bytes. [4 MiB]")
@click.option("--age", "kept_for", type=DURATION, default=86_400.0, help="Time; 0: any. [24h]")
@click.pass_obj
def keep(session: Session, /, topic: str, **kept: Any) -> None:
    """Set how much of TOPIC is kept."""

    async def work(cluster: Cluster) -> Topic:
        return await cluster.bus.set_topic(topic, **kept)

    found = session.call(work)
    session.emit({"topic": found}, lambda out: _print_topics(out, [found], []))


def _print_topics(out: Console, found: list[Topic], groups: list[Group]) -> None:
    from coterie.node.cli.output import table

    rows = [
        (one.name, str(one.count), str(one.size_bytes), str(one.sequence), f"{one.kept_for:g} s")
        for one in found
    ]
    columns = ("TOPIC", "KEPT", "BYTES", "PUBLISHED", "FOR")
    out.print(table(columns, rows, right=columns[1:]) if rows else "no topics")
    shares = [
        (one.name, one.pattern, str(one.cursor), str(one.unacked), str(one.lost), str(one.dead))
        for one in groups
    ]
    of_groups = ("GROUP", "PATTERN", "CURSOR", "UNACKED", "LOST", "DEAD")
    if shares:
        out.print(table(of_groups, shares, right=of_groups[2:]))


def _follow(
    session: Session,
    stream: Callable[[Cluster], AsyncGenerator[Any, None]],
    count: int,
    line: Callable[[Any], str],
) -> list[Any]:
    """What comes, until there is enough or --timeout is over; with --json for one document at the end."""
    found: list[Any] = []

    async def work(cluster: Cluster) -> None:
        try:
            async with asyncio.timeout(session.timeout) as scope, aclosing(stream(cluster)) as items:
                async for item in items:
                    if getattr(item, "kind", "") in ("synced", "reset"):
                        continue
                    if session.json or count:
                        found.append(item)
                    if not session.json:
                        echo(line(item))
                    if count and len(found) >= count:
                        return
        except TimeoutError:
            if not scope.expired():
                raise

    session.call(work, patient=True)
    return found
