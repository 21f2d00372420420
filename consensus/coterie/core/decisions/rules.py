"""The rules about decisions, for the machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from coterie.core.commands import (
    AskApproval,
    BeginStep,
    Outcome,
    ResolveApproval,
    ResolveStep,
    WithdrawStep,
)
from coterie.core.decisions import approval_rules, effect_rules
from coterie.core.state import ClusterState, Moment

RULES: dict[type, Callable[[ClusterState, Any, Moment], Outcome]] = {
    BeginStep: effect_rules.begin,
    WithdrawStep: effect_rules.withdraw,
    ResolveStep: effect_rules.resolve,
    AskApproval: approval_rules.ask,
    ResolveApproval: approval_rules.resolve,
}
