"""The services of a cluster beside its tasks, one attribute each."""

from __future__ import annotations

from collections.abc import Callable

from coterie.client.agents import Agents
from coterie.client.audit import Audit
from coterie.client.breakers import Breakers
from coterie.client.bus import Bus
from coterie.client.cluster_config import ClusterConfig
from coterie.client.connection import Connection
from coterie.client.debugger import Debugger
from coterie.client.decisions import Approvals, Effects
from coterie.client.goals import Goals
from coterie.client.keys import Keys
from coterie.client.locks import Locks
from coterie.client.queueing import DeadLetters, Limits
from coterie.client.schedules import Schedules
from coterie.client.security import Security
from coterie.client.skills import Skills
from coterie.client.usage import Usage
from coterie.client.workflows import Workflows


class Services:
    """What `coterie.client.Cluster` has beside tasks and nodes."""

    def __init__(self, connection: Callable[[], Connection]) -> None:
        self.dead_letters = DeadLetters(connection)
        """The tasks the cluster has given up: `list`, `get`, `replay`, `purge`."""
        self.limits = Limits(connection)
        """Limits on the whole cluster, and tenants: `set`, `list`, `remove`, `set_tenant`, `tenants`."""
        self.usage = Usage(connection)
        """What language models may cost and have cost: `set_budget`, `budgets`, `rows`, `in_doubt` …"""
        self.workflows = Workflows(connection)
        """Plans of many tasks: `plan`, `run`, `get`, `retry`, `add_nodes`, `apply`, `list`."""
        self.debugger = Debugger(connection)
        """What happened to a task or a run: `history`, `story`, `fork`; earlier states: `state`."""
        self.goals = Goals(connection)
        """Requests in words: `submit`, `route`, `mend`."""
        self.skills = Skills(connection)
        """Published skills: `publish`, `list`, `get`, `approve`, `route`, `roll_back`, `revoke`, `remove`."""
        self.agents = Agents(connection)
        """Agents: `apply`, `list`, `get`, `roll_back`, `remove`."""
        self.breakers = Breakers(connection)
        """What keeps work away from what fails: `list`, `reset`."""
        self.approvals = Approvals(connection)
        """What tasks ask people: `list`, `approve`, `reject`."""
        self.effects = Effects(connection)
        """Effects of which nobody knows the outcome: `doubts`, `done`, `retry`, `fail`."""
        self.security = Security(connection)
        """Who may do what: `create_token`, `tokens`, `revoke_token`, `set_user`, `users`, `whoami`."""
        self.schedules = Schedules(connection)
        """Tasks by the clock: `apply`, `list`, `pause`, `trigger`, `backfill`."""
        self.locks = Locks(connection)
        """Locks with fencing tokens: `hold`, `acquire`, `renew`, `release`, `list`."""
        self.kv = Keys(connection)
        """Small values under keys: `get`, `put`, `cas`, `delete`, `list`, `watch`."""
        self.bus = Bus(connection)
        """Topics: `publish`, `subscribe`, groups of consumers."""
        self.config = ClusterConfig(connection)
        """What the cluster has agreed on: `get`, `history`, `apply`, `roll_back`."""
        self.audit = Audit(connection)
        """Who changed what: `entries`, `head`."""
