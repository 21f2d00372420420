"""Which node runs a task: hard filters, then a cost with every term visible. Pure: state and load reports in,
a decision out. The same `choose` plans, answers a dry run, and explains.

    placing = Round(state, view, rules)      one pass over the queue
    decision = placing.place(task)           None: it stays; else decision.assignment(...)
    decision = choose(task, placing.pool)    the same without giving the slot away: .chosen, .ranked, .refused

Each node is either refused, with every filter that speaks against it (filters.py), or ranked by its cost
    (sum of the amounts of its terms) x (product of their factors); the lowest wins.
The strategy gives the amounts (strategies.py), in a unit of its own; wishes give factors (wishes.py).

To add a strategy:
1. write a class of the `Strategy` protocol in strategies.py: positive amounts, more load never costs less;
2. enter it in STRATEGIES;
3. name it in `Distribution.strategy` (node/config/model.py) and in docs/routing.md;
4. the tests in tests/core/test_routing_laws.py take it up by themselves; add one for what it is good at;
5. add it to bench/routing.py, and look at its line beside the others.

To add a wish or a filter: a function in wishes.py or filters.py, entered in WISHES or FILTERS; a field of
`Constraints` or `RoutingRules` that asks for it; a test that it decides, and that it shows."""

from coterie.core.kinds import kind
from coterie.core.routing.choice import Decision, Ranked, Refused, choose
from coterie.core.routing.filters import refusal
from coterie.core.routing.loads import GRAY_RATIO, NodeLoad, SkillLoad
from coterie.core.routing.pool import Candidate, Placeable, Pool, RoutingRules, Sight, Term
from coterie.core.routing.round import Round
from coterie.core.routing.strategies import STRATEGIES, Strategy

__all__ = [
    "GRAY_RATIO",
    "STRATEGIES",
    "Candidate",
    "Decision",
    "NodeLoad",
    "Placeable",
    "Pool",
    "Ranked",
    "Refused",
    "Round",
    "RoutingRules",
    "Sight",
    "SkillLoad",
    "Strategy",
    "Term",
    "choose",
    "kind",
    "refusal",
]
