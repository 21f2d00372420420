"""`coterie token create|list|revoke`, `coterie user set|list|rm` and `coterie whoami`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from coterie.node.cli.failures import bad_input
from coterie.node.cli.framework import DURATION, LeafCommand
from coterie.node.cli.session import Session

if TYPE_CHECKING:
    from datetime import datetime

    from rich.console import Console

    from coterie.client.cluster import Cluster
    from coterie.client.security import TokenInfo, UserInfo, WhoAmI

ANONYMOUS = "anonymous"
OPEN_ACCESS = (
    "security.auth is off here: nobody is asked who they are, everybody is an admin, and no audit log is "
    "written; set security.auth: required (or run `coterie dev --auth`)"
)
ROLES = click.Choice(["admin", "operator", "submitter", "viewer"])
TENANT_HELP = "Whose things; '*': every tenant's. Default: '*' for admin and operator, else default."


@click.command(cls=LeafCommand)
@click.option("--role", "roles", type=ROLES, multiple=True, required=True, help="May be given again.")
@click.option("--tenant", default="", help=TENANT_HELP)
@click.option("--valid-for", type=DURATION, help="E.g. 30d. Left out: until it is revoked.")
@click.option("--note", default="", help="For whom or what it is.")
@click.option("--out", type=click.Path(path_type=Path), help="Write it to this new file, not to the screen.")
@click.pass_obj
def create(
    session: Session,
    roles: tuple[str, ...],
    tenant: str,
    valid_for: float | None,
    note: str,
    out: Path | None,
) -> None:
    """Make a token. It is shown once: the cluster keeps only a hash of it.

    \b
    coterie token create --role submitter --tenant shop --valid-for 90d --out shop.token
    """
    if out is not None and out.exists():
        raise bad_input("--out", f"{out}: is there already; choose another file")

    async def work(cluster: Cluster) -> tuple[TokenInfo, WhoAmI]:
        # The token comes last: nothing after it may fail, for its secret is told once.
        who = await cluster.security.whoami()
        made = await cluster.security.create_token(roles, tenant=tenant, valid_for=valid_for, note=note)
        return made, who

    with _place(out) as keep:
        made, who = session.call(work)
        keep(made.secret)
    if who.principal == ANONYMOUS:
        session.say(OPEN_ACCESS)
    document = {**_document(made), "secret": "" if out else made.secret, "file": out}
    session.emit({"token": document}, lambda console: _print_made(console, made, out))


@contextmanager
def _place(out: Path | None) -> Iterator[Callable[[str], object]]:
    """Where the secret goes; nowhere without a file. Raises CommandFailed before there is a secret."""
    if out is None:
        yield lambda secret: None
        return
    from coterie.node.config.secret_files import SecretFileError, secret_file

    try:
        with secret_file(out) as write:
            yield write
    except SecretFileError as error:
        raise bad_input("--out", str(error)) from error


@click.command("list", cls=LeafCommand)
@click.pass_obj
def list_tokens(session: Session) -> None:
    """List the tokens, the oldest first."""

    async def work(cluster: Cluster) -> list[TokenInfo]:
        return await cluster.security.tokens()

    found = session.call(work)
    session.emit({"tokens": [_document(one) for one in found]}, lambda out: _print_tokens(out, found))


@click.command(cls=LeafCommand)
@click.argument("token_id", metavar="ID")
@click.pass_obj
def revoke(session: Session, token_id: str) -> None:
    """End the token ID: from now on it opens nothing, on no node that has heard of it."""

    async def work(cluster: Cluster) -> TokenInfo:
        return await cluster.security.revoke_token(token_id)

    found = session.call(work)
    session.emit({"token": _document(found)}, lambda out: out.print(f"{found.id} is revoked"))


@click.command("set", cls=LeafCommand)
@click.argument("name")
@click.option("--role", "roles", type=ROLES, multiple=True, required=True, help="May be given again.")
@click.option("--tenant", default="", help=TENANT_HELP)
@click.pass_obj
def set_user(session: Session, name: str, roles: tuple[str, ...], tenant: str) -> None:
    """Say what the holder of the certificate of user NAME may do."""

    async def work(cluster: Cluster) -> UserInfo:
        return await cluster.security.set_user(name, roles, tenant=tenant)

    found = session.call(work)
    session.emit({"user": found}, lambda out: _print_users(out, [found]))


@click.command("list", cls=LeafCommand)
@click.pass_obj
def list_users(session: Session) -> None:
    """List the users for whom something is set."""

    async def work(cluster: Cluster) -> list[UserInfo]:
        return await cluster.security.users()

    found = session.call(work)
    session.emit({"users": found}, lambda out: _print_users(out, found))


@click.command(cls=LeafCommand)
@click.argument("name")
@click.pass_obj
def remove_user(session: Session, name: str) -> None:
    """Take everything from the user NAME; `admin` is refused, for with nothing set it is an admin."""

    async def work(cluster: Cluster) -> None:
        await cluster.security.remove_user(name)

    session.call(work)
    session.emit({"removed": name}, lambda out: out.print(f"{name} may do nothing"))


@click.command(cls=LeafCommand)
@click.pass_obj
def whoami(session: Session) -> None:
    """Whom the cluster takes you for, and what you may do."""

    async def work(cluster: Cluster) -> WhoAmI:
        return await cluster.security.whoami()

    who = session.call(work)
    text = f"{who.principal}: {', '.join(who.roles) or 'no role'}, tenant {who.tenant or '-'}"
    if who.principal == ANONYMOUS:
        session.say(OPEN_ACCESS)
    session.emit({"whoami": who}, lambda out: out.print(text))


def _document(token: TokenInfo) -> dict[str, object]:
    names = ("id", "tenant", "roles", "note", "created_at", "expires_at", "revoked_at")
    return {name: getattr(token, name) for name in names}


def _print_made(out: Console, token: TokenInfo, file: Path | None) -> None:
    out.print(f"token {token.id}: {', '.join(token.roles)}, tenant {token.tenant}")
    if file is not None:
        tenant = "" if token.tenant in ("*", "default") else f" --tenant {token.tenant}"
        out.print(f"written to {file}; use it with --token {file}{tenant}", soft_wrap=True)
    else:
        out.print(token.secret, soft_wrap=True)
        out.print("it is not shown again")


def _print_tokens(out: Console, tokens: list[TokenInfo]) -> None:
    from coterie.node.cli.output import table

    rows = [
        (one.id, one.tenant, ",".join(one.roles), _day(one.expires_at), _day(one.revoked_at), one.note)
        for one in tokens
    ]
    out.print(
        table(("TOKEN", "TENANT", "ROLES", "EXPIRES", "REVOKED", "NOTE"), rows) if rows else "no tokens"
    )


def _print_users(out: Console, users: list[UserInfo]) -> None:
    from coterie.node.cli.output import table

    rows = [(one.name, one.tenant, ",".join(one.roles)) for one in users]
    out.print(table(("USER", "TENANT", "ROLES"), rows) if rows else "no users")


def _day(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M}" if moment else "-"
