"""`coterie usage` and `coterie budgets set|list|rm`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from coterie.node.cli.framework import WHOLE, LeafCommand
from coterie.node.cli.session import Session

if TYPE_CHECKING:
    from rich.console import Console

    from coterie.client.cluster import Cluster
    from coterie.client.usage import Account, Budget, By, DoubtfulCall, UsageRow

USD_MAX = 1e12


class UsdType(click.FloatRange):
    """An amount of money."""

    def __init__(self) -> None:
        super().__init__(min=0)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        amount = float(super().convert(value, param, ctx))
        if not amount <= USD_MAX:  # what is no number is not, either
            self.fail(f"{value} is more than {USD_MAX:.0f}", param, ctx)
        return amount


@click.command("usage", cls=LeafCommand)
@click.option("--by", type=click.Choice(["tenant", "agent", "model"]), help="Sum up by one of them.")
@click.option("--in-doubt", is_flag=True, help="Calls that may have been billed without an answer.")
@click.pass_obj
def usage(session: Session, by: By | None, in_doubt: bool) -> None:
    """What language models have cost since the cluster began, and what is in doubt."""

    async def doubts(cluster: Cluster) -> list[DoubtfulCall]:
        return await cluster.usage.in_doubt()

    async def rows(cluster: Cluster) -> list[UsageRow]:
        return await cluster.usage.rows(by)

    if in_doubt:
        calls = session.call(doubts)
        session.emit({"in_doubt": calls}, lambda out: _print_doubts(out, calls))
    else:
        found = session.call(rows)
        session.emit({"usage": found}, lambda out: _print_usage(out, found))


@click.command("set", cls=LeafCommand)
@click.argument("budget_id", metavar="ID")
@click.option("--tokens", type=WHOLE, default=0, help="In and out.")
@click.option("--usd", type=UsdType(), default=0.0, help="Money.")
@click.option("--requests", type=WHOLE, default=0, help="Calls.")
@click.option("--window", default="total", show_default=True, help="minute, hour, day, total, or e.g. 10m.")
@click.option("--tenant", default="", help="Only of this tenant; '*': of each for itself.")
@click.option("--agent", default="", help="Likewise of an agent.")
@click.option("--session", "of_session", default="", help="Likewise of a session.")
@click.option("--task", default="", help="Likewise of a task and its children.")
@click.option("--fail", is_flag=True, help="Calls fail where nothing is left; else their tasks wait.")
@click.pass_obj
def set_budget(session: Session, /, budget_id: str, of_session: str, **options: Any) -> None:
    """Set the budget ID of language models on the whole cluster.

    \b
    coterie budgets set daily --tenant '*' --tokens 1000000 --window day
    coterie budgets set one-task --task '*' --usd 0.50 --fail
    """
    from coterie.client.usage import Budget

    budget = Budget(id=budget_id, session=of_session, **options)

    async def work(cluster: Cluster) -> Budget:
        return await cluster.usage.set_budget(budget)

    found = session.call(work)
    session.emit({"budget": found}, lambda out: _print_budgets(out, [found]))


@click.command("list", cls=LeafCommand)
@click.pass_obj
def list_budgets(session: Session) -> None:
    """List the budgets, with what is spent and set aside in their current windows."""

    async def work(cluster: Cluster) -> list[Budget]:
        return await cluster.usage.budgets()

    found = session.call(work)
    session.emit({"budgets": found}, lambda out: _print_budgets(out, found))


@click.command(cls=LeafCommand)
@click.argument("budget_id", metavar="ID")
@click.pass_obj
def remove(session: Session, budget_id: str) -> None:
    """Lift the budget ID."""

    async def work(cluster: Cluster) -> None:
        await cluster.usage.remove_budget(budget_id)

    session.call(work)
    session.emit({"removed": budget_id}, lambda out: out.print(f"{budget_id} is lifted"))


def _print_usage(out: Console, rows: list[UsageRow]) -> None:
    from coterie.node.cli.output import table

    lines = [
        (
            one.tenant or "-",
            one.agent or "-",
            one.model or "-",
            str(one.calls),
            str(one.tokens_in),
            str(one.tokens_out),
            f"{one.micro_usd / 1_000_000:.6f}",
            str(one.in_doubt),
            f"{one.in_doubt_micro_usd / 1_000_000:.6f}",
        )
        for one in rows
    ]
    numbers = ("CALLS", "TOKENS IN", "TOKENS OUT", "USD", "IN DOUBT", "AT MOST USD")
    out.print(
        table(("TENANT", "AGENT", "MODEL", *numbers), lines, right=numbers) if lines else "nothing used"
    )


def _print_doubts(out: Console, calls: list[DoubtfulCall]) -> None:
    from coterie.node.cli.output import table

    lines = [
        (
            one.at.strftime("%F %T"),
            one.task_id,
            f"{one.step} ({one.call})",
            one.model,
            str(one.tokens),
            one.response_id or "-",
            one.reason,
        )
        for one in calls
    ]
    columns = ("TIME", "TASK", "STEP (CALL)", "MODEL", "TOKENS", "RESPONSE", "REASON")
    out.print(table(columns, lines, right=("TOKENS",)) if lines else "no call is in doubt")


def _print_budgets(out: Console, budgets: list[Budget]) -> None:
    from coterie.node.cli.output import table

    lines = [(*_whose(one), *_spent(one, account)) for one in budgets for account in one.accounts or (None,)]
    numbers = ("TOKENS", "USD", "REQUESTS")
    out.print(table(("BUDGET", "WHOSE", "PER", *numbers), lines, right=numbers) if lines else "no budgets")


def _whose(budget: Budget) -> tuple[str, str, str]:
    scope = {name: getattr(budget, name) for name in ("tenant", "agent", "session", "task")}
    whose = " ".join(f"{name}={value}" for name, value in scope.items() if value)
    return budget.id, whose or "everybody", f"{budget.window:g} s" if budget.window else "total"


def _spent(budget: Budget, account: Account | None) -> tuple[str, str, str]:
    """Spent + set aside of the limit."""

    def part(name: str, form: str) -> str:
        limit = getattr(budget, name)
        if not limit:
            return "-"
        spent = getattr(account, name, 0)
        reserved = getattr(account, f"{name}_reserved", 0)
        return f"{spent:{form}} + {reserved:{form}} of {limit:{form}}"

    return part("tokens", "d"), part("usd", ".6f"), part("requests", "d")
